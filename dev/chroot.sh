# chroot.sh: a fresh Debian system to try things in. Sourced after lib.sh; needs root.
#
# $CHROOTS/<suite>.base is what debootstrap makes, once; a run works on a copy. It
# gets a mount and a process namespace of its own, so that whatever happens inside,
# nothing stays mounted and nothing stays running. Downloaded packages are kept.

CHROOTS=${ORION_CHROOTS:-/var/cache/orion-dev}

# The Debian mirror that this machine uses.
debian_mirror()
{
	apt-get indextargets --format '$(ORIGIN) $(LABEL) $(SITE)' 'Created-By: Packages' | sed -n 's/^Debian Debian //p' | head -n 1
}

# make_chroot SUITE NAME: sets CHROOT to a copy of a minimal SUITE, new unless it is there.
make_chroot()
{
	local base=$CHROOTS/$1.base mirror

	[ "$ME" = root ] || die "debootstrap and chroot need root"
	command -v debootstrap > /dev/null || quietly apt-get install -y -q debootstrap
	mkdir -p "$CHROOTS/archives"
	if [ ! -d "$base" ]; then
		mirror=$(debian_mirror)
		[ -n "$mirror" ] || die "apt-get on this machine knows no Debian mirror"
		note "debootstrap $1, once, into $base"
		rm -rf "$base.new"
		quietly debootstrap --variant=minbase "$1" "$base.new" "$mirror"
		mv "$base.new" "$base"
	fi
	CHROOT=$CHROOTS/$2
	if [ ! -d "$CHROOT" ]; then
		cp -a "$base" "$CHROOT.new"
		mv "$CHROOT.new" "$CHROOT"
	fi
	# what an installed machine has: names of itself, its resolver and its way out
	cp -L /etc/resolv.conf "$CHROOT/etc/resolv.conf"
	printf '127.0.0.1\tlocalhost %s\n::1\tlocalhost\n' "$(hostname)" > "$CHROOT/etc/hosts"
	apt-config dump | grep -iE '^Acquire::(http|https)::Proxy ' > "$CHROOT/etc/apt/apt.conf.d/90proxy" || true
	# authorities that this machine was given: package ca-certificates takes them up
	mkdir -p "$CHROOT/usr/local/share/ca-certificates"
	find /usr/local/share/ca-certificates -name '*.crt' -exec cp -t "$CHROOT/usr/local/share/ca-certificates" {} + 2> /dev/null || true
	echo 'Binary::apt-get::APT::Keep-Downloaded-Packages "true";' > "$CHROOT/etc/apt/apt.conf.d/91keep"
}

# run_in_chroot CMD...: as root in $CHROOT, in /root/orion, where the source tree is.
run_in_chroot()
{
	local tree=$CHROOT/root/orion

	mkdir -p "$tree"
	find "$tree" -mindepth 1 -maxdepth 1 ! -name .orion -exec rm -rf {} +
	source_files | tar -C "$ROOT" --null -T - -c | tar -C "$tree" -x
	unshare --mount --pid --fork --kill-child --propagation private bash -c '
		chroot=$1 archives=$2; shift 2
		mount -t proc proc "$chroot/proc"
		mount --rbind /dev "$chroot/dev"
		mount -t tmpfs -o mode=1777 tmpfs "$chroot/dev/shm"
		mount --bind "$archives" "$chroot/var/cache/apt/archives"
		mkdir -p "$archives/partial"
		[ ! -x "$chroot/usr/sbin/update-ca-certificates" ] || chroot "$chroot" update-ca-certificates --fresh > /dev/null 2>&1 || true
		exec chroot "$chroot" /usr/bin/env -i HOME=/root LANG=C.UTF-8 TERM=dumb CI="$CI" \
			PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -c "cd /root/orion && \"\$@\"" bash "$@"
	' bash "$CHROOT" "$CHROOTS/archives" "$@" 9>&-
}
