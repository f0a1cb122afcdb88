# services.sh: private Redis and RabbitMQ servers. Sourced after lib.sh.
#
# Each listens on loopback only, on a port of its own, with a password made at the
# first start, and keeps data, log and pid file under $STATE/<name>/. They run until
# `make down`. REDIS_URL and AMQP_URL are empty for what does not run.

REDIS_URL=
AMQP_URL=

new_password() { od -An -N18 -tx1 /dev/urandom | tr -d ' \n'; }

# service_places NAME FIRST: port and password of a service, kept from run to run.
service_places()
{
	local dir=$STATE/$1

	own_dir "$dir"
	chmod 700 "$dir"
	PORT= PASSWORD=
	[ ! -f "$dir/places" ] || . "$dir/places"
	[ -n "$PASSWORD" ] || PASSWORD=$(new_password)
	if ! alive "$(pid_of "$1")" "$dir"; then
		[ -n "$PORT" ] && ! port_used "$PORT" || PORT=$(free_port "$2")
	fi
	printf 'PORT=%s\nPASSWORD=%s\n' "$PORT" "$PASSWORD" | as_user sh -c 'umask 077; cat > "$1"' sh "$dir/places"
}

pid_of() { cat "$STATE/$1/pid" 2> /dev/null || true; }

# start_services NAME...: starts these, and finds those that run already.
start_services()
{
	local name

	for name in redis rabbitmq; do
		case " $* " in
			*" $name "*) start_$name ;;
			*) ! alive "$(pid_of $name)" "$STATE/$name" || start_$name ;;
		esac
	done
}

start_redis()
{
	local dir=$STATE/redis

	service_places redis 16330
	step redis "on port $PORT"
	REDIS_URL=redis://default:$PASSWORD@127.0.0.1:$PORT/0
	if alive "$(pid_of redis)" "$dir"; then
		note "runs already (pid $(pid_of redis))"
		return
	fi
	as_user sh -c 'umask 077; cat > "$1"' sh "$dir/redis.conf" <<-X
		bind 127.0.0.1
		port $PORT
		requirepass $PASSWORD
		daemonize yes
		pidfile $dir/pid
		logfile $STATE/log/redis-server.log
		dir $dir
		appendonly yes
		save ""
	X
	touch "$STATE/log/redis-server.log"
	[ "$ME" = "$RUN_AS" ] || chown "$RUN_AS" "$STATE/log/redis-server.log"
	quietly as_user redis-server "$dir/redis.conf"
	LOG=$STATE/log/redis-server.log
	until_true 15 port_used "$PORT" || die "redis-server does not listen on port $PORT"
	note "started (pid $(pid_of redis))"
}

# RabbitMQ brings Erlang's port mapper. Both get names, ports, a cookie and a home of
# their own, so that they neither find nor disturb another RabbitMQ on the machine.
start_rabbitmq()
{
	local dir=$STATE/rabbitmq epmd_port dist_port

	service_places rabbitmq 25330
	step rabbitmq "on port $PORT"
	AMQP_URL=amqp://orion:$PASSWORD@127.0.0.1:$PORT/%2f
	if alive "$(pid_of rabbitmq)" "$dir"; then
		note "runs already (pid $(pid_of rabbitmq))"
		return
	fi
	epmd_port=$(free_port $((PORT + 1000)))
	dist_port=$(free_port $((PORT + 2000)))
	as_user mkdir -p "$dir/home" "$dir/config"
	as_user sh -c 'umask 077; cat > "$1"' sh "$dir/rabbitmq.conf" <<-X
		listeners.tcp.1 = 127.0.0.1:$PORT
		default_user = orion
		default_pass = $PASSWORD
	X
	echo '[].' | as_user tee "$dir/enabled_plugins" > /dev/null
	as_user touch "$dir/rabbitmq-env.conf"
	rabbitmq_env=(HOME="$dir/home" RABBITMQ_NODENAME="orion$PORT@127.0.0.1" RABBITMQ_USE_LONGNAME=true
		RABBITMQ_CONF_ENV_FILE="$dir/rabbitmq-env.conf" RABBITMQ_CONFIG_FILE="$dir/rabbitmq.conf"
		RABBITMQ_ADVANCED_CONFIG_FILE="$dir/advanced.config" RABBITMQ_GENERATED_CONFIG_DIR="$dir/config"
		RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins" RABBITMQ_MNESIA_BASE="$dir/mnesia"
		RABBITMQ_LOG_BASE="$dir/log" RABBITMQ_PID_FILE="$dir/pid" RABBITMQ_DIST_PORT="$dist_port"
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
		ERL_EPMD_PORT="$epmd_port" ERL_EPMD_ADDRESS=127.0.0.1)
	as_user rm -f "$dir/pid"
	quietly as_user env "${rabbitmq_env[@]}" sh -c 'setsid epmd -port "$2" -address 127.0.0.1 & echo $! > "$1/epmd.pid"' sh "$dir" "$epmd_port"
	until_true 10 port_used "$epmd_port" || die "epmd does not listen on port $epmd_port"
	quietly as_user env "${rabbitmq_env[@]}" /usr/lib/rabbitmq/bin/rabbitmq-server -detached
	until_true 60 port_used "$PORT" || die "rabbitmq-server does not listen on port $PORT (see also $dir/log)"
	note "started (pid $(pid_of rabbitmq))"
}

stop_services()
{
	local name

	for name in rabbitmq redis; do
		[ -d "$STATE/$name" ] || continue
		step $name "server in $STATE/$name"
		alive "$(pid_of $name)" "$STATE/$name" || note "not running"
		stop_pid $name "$(pid_of $name)" "$STATE/$name" TERM 30
		[ $name != rabbitmq ] || stop_pid epmd "$(cat "$STATE/rabbitmq/epmd.pid" 2> /dev/null || true)" "$STATE/rabbitmq" TERM 10
	done
}
