# lib.sh: what the scripts in dev/ share. Sourced by bash, never run.
#
# Who runs what: PostgreSQL refuses to run as root. Started by root, everything but
# apt-get runs as the user postgres; started by anybody else, everything runs as
# that user and sudo is used for apt-get alone.
#
# Where: everything made lies under .orion in the checkout ($STATE). Where that
# user cannot reach the checkout (below /root, say), .orion is a symbolic link to
# a directory that it can reach.

set -euo pipefail
umask 022
export LC_ALL=C.UTF-8 LANG=C.UTF-8	# PostgreSQL::Test drops LC_ALL; a database in SQL_ASCII would follow
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
unset PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD PGSERVICE PGOPTIONS PGDATA	# ours, or nobody's

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
STATE=$ROOT/.orion
STEP=start
LOG=
ME=$(id -un)
RUN_AS=$ME
[ "$(id -u)" != 0 ] || RUN_AS=postgres

# --- progress and failure ----------------------------------------------------

# step NAME TEXT: one line of progress. What follows logs to $STATE/log/NAME.log.
step()
{
	STEP=$1
	if [ -d "$STATE/log" ]; then
		LOG=$STATE/log/$1.log
		: > "$LOG"
	fi
	printf '%-10s %s\n' "$1" "$2"
}

note() { printf '%-10s %s\n' '' "$*"; }

# die WHY: says which step failed, why, and where the log is.
die()
{
	trap - ERR
	{
		printf '\nFAILED in step "%s": %s\n' "$STEP" "$1"
		if [ -n "$LOG" ] && [ -s "$LOG" ]; then
			printf 'The log is %s; its last lines:\n' "$LOG"
			tail -n 25 "$LOG" | sed 's/^/    /'
		fi
	} >&2
	exit 1
}

# quietly CMD...: output goes to the step's log; a failure ends the script.
quietly()
{
	local words=${*#as_user }

	printf '$ %s\n' "$words" >> "$LOG"
	"$@" >> "$LOG" 2>&1 < /dev/null || die "this command failed: $words"
}

trap 'die "unexpected failure in ${BASH_SOURCE[0]##*/} line $LINENO: $BASH_COMMAND"' ERR
set -E

# --- users --------------------------------------------------------------------

# as_user CMD...: as the user who owns the servers. 9 is the lock of lock_state.
as_user()
{
	if [ "$ME" = "$RUN_AS" ]; then
		HOME=$STATE/home "$@" 9>&-
	else
		runuser -u "$RUN_AS" -- env HOME="$STATE/home" "$@" 9>&-
	fi
}

as_root()
{
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo > /dev/null; then
		sudo "$@"
	else
		die "this needs root and there is no sudo; as root run: $*"
	fi
}

# --- packages -----------------------------------------------------------------

# The version of PostgreSQL: what the release of Debian has.
pg_version()
{
	local release=${ORION_PG:-}

	[ -z "$release" ] || { echo "$release"; return; }
	release=$(. /etc/os-release && echo "${ID:-}:${VERSION_ID:-}")
	case $release in
		debian:12) echo 15 ;;
		debian:13) echo 17 ;;
		*) die "Debian 12 or 13 is needed, this is $release (set ORION_PG to the installed major version to try anyway)" ;;
	esac
}

# install_packages GROUP...: sets PG, and installs what is missing of these groups of
# dev/packages.
install_packages()
{
	local group names=

	step packages "of Debian"
	LOG=$(mktemp)	# $STATE is not there yet; the file stays when this fails
	PG=$(pg_version)
	for group in "$@"; do
		names+=" $(sed -n "s/^$group: *//p" "$ROOT/dev/packages" | sed "s/@PG@/$PG/g")"
	done
	if [ -z "$(missing_packages $names)" ]; then
		note "nothing to install"
		rm -f "$LOG"
		return
	fi
	note "installing:$(missing_packages $names | tr '\n' ' ' | sed 's/^/ /')"
	as_root "$ROOT/dev/install-packages" "$PG" $names >> "$LOG" 2>&1 < /dev/null ||
		die "apt-get could not install them"
	[ -z "$(missing_packages $names)" ] || die "still missing: $(missing_packages $names | tr '\n' ' ')"
	rm -f "$LOG"
}

# The names among the arguments of which nothing is installed.
missing_packages()
{
	local name one

	for name in "$@"; do
		for one in ${name//|/ }; do
			one=${one%\?}
			[ "$(dpkg-query -W -f '${db:Status-Status}' "$one" 2> /dev/null)" != installed ] || continue 2
		done
		case $name in
			*\?) [ -z "$(apt-cache madison "${name%\?}" 2> /dev/null)" ] || echo "$name" ;;
			*) echo "$name" ;;
		esac
	done
}

# --- the state directory ------------------------------------------------------

# Makes $STATE, reachable by $RUN_AS. Needs that user: packages come first.
state_init()
{
	local link=$ROOT/.orion far

	if [ "$ME" != "$RUN_AS" ] && ! (cd / && as_user test -x "$ROOT"); then
		far=/var/lib/orion-dev/$(printf %s "$ROOT" | sha256sum | cut -c1-12)
		if [ -d "$link" ] && [ ! -L "$link" ]; then
			rmdir "$link" 2> /dev/null || die "user $RUN_AS cannot reach $link; move it away and try again"
		fi
		mkdir -p "$far"
		ln -sfn "$far" "$link"
	elif [ -L "$link" ] && [ ! -d "$link" ]; then
		rm "$link"
	fi
	mkdir -p "$link" 2> /dev/null && [ -w "$link" ] ||
		die "$link belongs to $(stat -c %U "$link"): run this as that user, or remove it"
	STATE=$(cd "$link" && pwd -P)
	# root takes over what an ordinary user has made
	if [ "$ME" = root ] && [ -d "$STATE/data" ] && [ "$(stat -c %U "$STATE/data")" != root ]; then
		RUN_AS=$(stat -c %U "$STATE/data")
	fi
	mkdir -p "$STATE/log" "$STATE/run"
	own_dir "$STATE/home"
	cd "$STATE"
}

# One `make up`/`make down`, and one `make check`, at a time.
lock_state()
{
	exec 9> "$STATE/run/$1.lock"
	flock -n 9 || die "another run of make $1 is under way in this checkout"
}

# own_dir DIR: a directory that belongs to $RUN_AS.
own_dir()
{
	[ "$ME" = "$RUN_AS" ] && mkdir -p "$1" || install -d -o "$RUN_AS" "$1"
}

# --- building -----------------------------------------------------------------

# source_files: the tree as it is, without what the build makes; NUL-separated.
source_files()
(
	cd "$ROOT"
	if command -v git > /dev/null && [ -e .git ]; then
		git -c safe.directory='*' ls-files -z -co --exclude-standard | sort -zu |
			while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done
	else
		find . \( -name .git -o -name .orion \) -prune -o \( -type f -o -type l \) ! -name '*.o' ! -name '*.so' \
			! -name '*.bc' ! -path ./orion-gateway ! -path ./orion-courier -printf '%P\0' | sort -z
	fi
)

# sync_tree DIR: brings DIR up to date with the source tree; objects stay, so only
# what changed is built again. Times are kept: make decides by them.
sync_tree()
{
	local list=$STATE/run/files.$$

	source_files > "$list"
	own_dir "$1"
	if [ -f "$1/.files" ]; then
		comm -z -13 "$list" "$1/.files" | (cd "$1" && as_user xargs -0r rm -f --)
	fi
	tar -C "$ROOT" --null -T "$list" -c | as_user tar -C "$1" -x
	as_user sh -c 'cat > "$1"' sh "$1/.files" < "$list"
	rm -f "$list"
}

# copy_postgres DIR: a private copy of the installed PostgreSQL. The server finds
# its libraries and its share directory relative to its own program, so `make
# install DESTDIR=DIR` next to the copy leaves the system's alone.
copy_postgres()
{
	local stamp part
	stamp=$(dpkg-query -W -f '${Package} ${Version}\n' "postgresql*-$PG*" | sha256sum)

	INST=$1
	BIN=$1/usr/lib/postgresql/$PG/bin
	[ "$(cat "$1/.stamp" 2> /dev/null)" != "$stamp" ] || return 0
	rm -rf "$1"
	own_dir "$1"
	for part in lib share; do
		as_user mkdir -p "$1/usr/$part/postgresql"
		as_user cp -r --preserve=mode,timestamps,links "/usr/$part/postgresql/$PG" "$1/usr/$part/postgresql/"
	done
	rm -rf "$1/usr/lib/postgresql/$PG/lib/bitcode"
	as_user sh -c 'echo "$1" > "$2"' sh "$stamp" "$1/.stamp"
}

# build TREE [make variable...]: builds TREE and installs it into $INST.
build()
{
	local tree=$1 stamp; shift
	stamp="$(/usr/lib/postgresql/$PG/bin/pg_config --version) $(gcc -dumpfullversion) $*"

	if [ "$(cat "$tree/.built-for" 2> /dev/null)" != "$stamp" ]; then
		as_user find "$tree" \( -name '*.o' -o -name '*.so' -o -name orion-gateway -o -name orion-courier \) -type f -delete
		as_user sh -c 'echo "$1" > "$2"' sh "$stamp" "$tree/.built-for"
	fi
	quietly as_user make -C "$tree" -j"$(nproc)" all PG_CONFIG="/usr/lib/postgresql/$PG/bin/pg_config" "$@"
	quietly as_user make -C "$tree" install PG_CONFIG="/usr/lib/postgresql/$PG/bin/pg_config" DESTDIR="$INST" "$@"
}

# --- processes and ports ------------------------------------------------------

# Does anything on this machine listen on this TCP port?
port_used()
{
	cat /proc/net/tcp /proc/net/tcp6 2> /dev/null |
		awk -v port="$(printf %04X "$1")" '$4 == "0A" && $2 ~ ":" port "$" { found = 1 } END { exit !found }'
}

# free_port FIRST: the first port from FIRST on that nothing here uses in any way.
free_port()
{
	local port=$1
	while cat /proc/net/tcp /proc/net/tcp6 2> /dev/null | awk -v port="$(printf %04X "$port")" \
		'$2 ~ ":" port "$" { found = 1 } END { exit !found }'; do port=$((port + 1)); done
	echo "$port"
}

# alive PID WORD: does it run, and is it ours (WORD in its command line, environment
# or directory)? A pid from a file may by now belong to somebody else.
alive()
{
	[ -n "$1" ] && [ -d "/proc/$1" ] || return 1
	! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2> /dev/null || return 1
	[[ $(readlink "/proc/$1/cwd" 2> /dev/null) == "$2"* ]] ||
		grep -qsaF -- "$2" "/proc/$1/cmdline" "/proc/$1/environ"
}

# until_true SECONDS CMD...: polls ten times a second.
until_true()
{
	local tries=$(($1 * 10)); shift
	until "$@"; do
		[ $((tries -= 1)) -gt 0 ] || return 1
		sleep 0.1
	done
}

gone() { ! alive "$@"; }

# stop_pid NAME PID WORD SIGNAL SECONDS: asks it to stop, waits, and kills it if it does not.
stop_pid()
{
	alive "$2" "$3" || return 0
	kill -"$4" "$2" 2> /dev/null || as_root kill -"$4" "$2" || true
	if ! until_true "$5" gone "$2" "$3"; then
		note "$1 (pid $2) did not stop within $5 s: killed"
		kill -KILL "$2" 2> /dev/null || true
		until_true 5 gone "$2" "$3" || die "$1 (pid $2) cannot be killed"
	fi
	note "$1 stopped (pid $2)"
}
