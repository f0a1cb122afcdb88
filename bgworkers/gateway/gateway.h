/*
 * gateway.h
 *	  What the files of the program orion-gateway share.
 *
 * One thread, one epoll.  A request is read by the HTTP server (server.c), whose
 * connection is suspended while the request waits in the queue, lies in the ring
 * or is out at an executor (handoff.c).  A request has one owner at a time: its state says who.
 */
#ifndef ORION_GATEWAY_H
#define ORION_GATEWAY_H

#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "frame.h"
#include "gateway/http.h"
#include "gateway/metrics.h"
#include "gateway/proxy.h"
#include "gateway/queue.h"
#include "ring.h"

#define ORION_GATEWAY_MAX_LISTENERS 32
#define ORION_GATEWAY_MAX_PROCESSES 16
#define ORION_GATEWAY_ADDRESS	64	/* an address as text */

/* Who gets /metrics. */
typedef enum GatewayMetrics
{
	METRICS_OFF,
	METRICS_LOCAL,
	METRICS_ON,
} GatewayMetrics;

/* From the CONFIG frame; the worker has the settings these come from. */
typedef struct GatewayConfig
{
	char		version[32];
	char		listen_addresses[1024];
	int			port;
	int			tls_port;		/* 0: no TLS */
	char		tls_cert_file[1024];
	char		tls_key_file[1024];
	char		tls_stamp[128]; /* changes when one of the two does */
	bool		tls_old;		/* TLS 1.2 as well */
	char		unix_socket[sizeof(((struct sockaddr_un *) 0)->sun_path)];	/* empty: none */
	int			unix_socket_mode;
	OrionProxyList trusted_proxies;
	GatewayMetrics metrics;
	char		access_log[1024];	/* a path, "stderr", or empty: none */
	char		cors_origins[4096]; /* that browsers may call from; empty: all */
	uint64_t	max_body;		/* bytes */
	size_t		max_header;		/* bytes: request line and headers */
	int64_t		idle_timeout;	/* milliseconds */
	int			queue_size;
	int			max_parked;		/* requests that wait for a standby's replay */
	int64_t		queue_timeout;	/* milliseconds */
	int			max_connections;
	int			max_connections_per_address;	/* 0: no limit */
	int			process;		/* which of them this is, from 0 */
	int			processes;		/* that serve the same ports */
} GatewayConfig;

/* What an event of the epoll is about; the first member of the thing itself. */
typedef enum SourceKind
{
	SOURCE_PARENT,				/* the worker: end of file means leave */
	SOURCE_HTTP,				/* an HTTP server's own epoll */
	SOURCE_LISTENER,
	SOURCE_DOOR,				/* where executors connect */
	SOURCE_BELL,				/* an executor has answered */
	SOURCE_EXECUTOR,
	SOURCE_PEER,				/* another gateway, asked for its metrics */
	SOURCE_CLIENT,				/* a client's socket: only its hanging up */
} SourceKind;

typedef struct Source
{
	SourceKind	kind;
	int			fd;
} Source;

/* An address that clients connect to. */
typedef struct Listener
{
	Source		source;
	bool		tls;
	struct sockaddr_storage addr;
	socklen_t	len;
} Listener;

/*
 * A daemon of the HTTP library.  A change of settings that it cannot learn
 * retires it: its clients are served and asked to come back, and it goes with
 * the last of them.
 */
typedef struct Server
{
	Source		source;
	struct MHD_Daemon *daemon;
	bool		tls;
	bool		retired;
	bool		run;			/* it has something to do */
	int			nclients;
	struct Server *next;
} Server;

typedef enum RequestState
{
	REQUEST_NEW,				/* target known, headers being read */
	REQUEST_READING,			/* body */
	REQUEST_QUEUED,				/* in the queue; connection suspended */
	REQUEST_OUT,				/* in the ring; connection suspended */
	REQUEST_ASKING,				/* for metrics of the worker; likewise */
	REQUEST_PARKED,				/* until a standby has replayed a position;
								 * likewise */
	REQUEST_ANSWERED,			/* response is set; connection resumed */
	REQUEST_ABORTED,			/* no answer; connection to be closed */
} RequestState;

/* What the HTTP library keeps for a connection; NULL when it is not known. */
typedef struct GatewayPool
{
	char	   *base;
	size_t		len;
} GatewayPool;

/* As of IPv6, and only the network, 64 bits; that of IPv4 is mapped into it. */
typedef struct GatewayAddress
{
	uint8_t		bytes[16];
} GatewayAddress;

typedef struct Client Client;
typedef struct Executor Executor;
typedef struct Stream Stream;

typedef struct Request
{
	OrionQueueItem item;		/* first: a queue item is a request */
	RequestState state;
	uint64_t	id;
	struct MHD_Connection *connection;
	Client	   *client;
	int			slot;			/* of the ring, while OUT; else -1 */
	Executor   *executor;		/* that gets it over its socket */
	OrionBuffer frame;			/* the REQUEST frame, from offset 0; kept for
								 * a second try */
	size_t		sent;			/* bytes of it sent */
	size_t		body_at;		/* offset of the body's length field */
	uint64_t	body_len;		/* bytes of body read */
	uint64_t	held;			/* of them in memory */
	int64_t		park_until;		/* 0: was never put aside */
	uint64_t	park_timeline;
	uint64_t	park_lsn;
	uint64_t	answer_held;	/* bytes of a large answer in memory */
	bool		safe;			/* GET or HEAD: may be given to another
								 * executor */
	bool		retried;
	bool		close;			/* close the connection after the answer */
	const OrionHttpError *error;	/* answer to give once the request is read */
	struct MHD_Response *own;	/* shared answer of /health or /ready */
	struct MHD_Response *response;	/* of an executor, ours to release */
	Stream	   *stream;			/* that the response reads, or NULL */
	unsigned int status;		/* 0: not answered yet */
	uint64_t	answer_len;		/* bytes of the answer's body */
	int64_t		since_us;
	bool		proxied;		/* a proxy says that it speaks for somebody */
	bool		metrics;		/* asks for /metrics */
	char		method[16];
	char		route[ORION_METRICS_ROUTE_LEN + 1]; /* what an executor says
													 * it served */
	char		role[64];		/* under which role; empty: none */
	size_t		target_len;
	char	   *target;			/* short_target, or allocated; empty when it
								 * is too long */
	char		peer[ORION_GATEWAY_ADDRESS];	/* who asks */
	char		request_id[ORION_HTTP_MAX_REQUEST_ID + 1];
	char		short_target[ORION_HTTP_SHORT_TARGET + 1];
	struct Request *next_free;
} Request;

/* Clients in the order in which they entered. */
typedef struct ClientList
{
	Client	   *first;
	Client	   *last;
} ClientList;

struct Client
{
	Source		source;
	Server	   *server;
	struct MHD_Connection *connection;
	ClientList *list;			/* the list it is in, or NULL */
	Client	   *prev;
	Client	   *next;
	int64_t		since;			/* when it entered the list */
	uint64_t	seen;			/* body bytes at the last look */
	bool		half_closed;	/* it will send no more */
	bool		trusted;		/* a proxy that says whom it speaks for */
	GatewayPool pool;
	bool		is_counted;		/* at its address, which is limited */
	GatewayAddress counted;
	Request    *request;		/* the current one, or NULL */
	char		address[ORION_GATEWAY_ADDRESS]; /* empty: a Unix socket */
};

struct Executor
{
	Source		source;
	pid_t		pid;
	bool		greeted;
	bool		dead;			/* to be freed at the end of this turn */
	bool		want_write;		/* epoll watches for writability */
	bool		paused;			/* and not for anything to read */
	bool		deaf;			/* it has closed its end; what it said before
								 * is still to be read */
	int			lane;			/* of the ring, once greeted */
	uint32_t	done_head;		/* answers taken from the lane */
	Request    *request;		/* goes, or went, over the socket */
	OrionBuffer in;
	OrionBuffer out;			/* the rest of a frame whose request is gone,
								 * WAKE and CANCEL */
	Executor   *prev;
	Executor   *next;
	Executor   *next_dead;
};

typedef struct Gateway
{
	GatewayConfig config;
	int			epoll;
	int64_t		now;			/* monotonic milliseconds, read once a turn */
	int64_t		now_us;			/* the same in microseconds */
	Server	   *servers;		/* those that are not retired come first */
	Source		parent;
	Source		door;
	Source		bell;
	OrionRing  *ring;
	int			ring_memory;
	Listener	listeners[ORION_GATEWAY_MAX_LISTENERS];
	int			nlisteners;
	bool		listening;		/* the listeners are in the epoll */
	bool		run_http;		/* a server has something to do */
	int64_t		leave_at;		/* leaving: serve no longer than this; else 0 */
	OrionQueue	queue;
	Executor   *executors;
	Executor   *dead;
	int			nexecutors;
	bool		wake_due;		/* a request waits and an executor sleeps */
	ClientList	reading;		/* they owe us a request, or the rest of one */
	ClientList	idle;			/* likewise, for so long that their memory was
								 * given back */
	ClientList	leaving;		/* half-closed, and their request is underway */
	int			nclients;
	uint64_t	total_clients;	/* ever */
} Gateway;

extern Gateway orion_gateway;

/* main.c */
extern bool orion_gateway_watch(Source *source, uint32_t events);
extern void orion_gateway_complain(const char *fmt,...) __attribute__((format(printf, 1, 2)));

extern void orion_gateway_ask_parent(OrionFrameType type);

/* config.c: false, with a text, when the JSON is not what the worker writes. */
extern bool orion_gateway_config_parse(const char *json, size_t len, GatewayConfig *config, char *why, size_t size);

/*
 * listen.c: false with a text for operators when an address cannot be had; then
 * the listeners are what they were.
 */
extern bool orion_gateway_listen(const GatewayConfig *config, char *why, size_t size);
extern void orion_gateway_listen_watch(bool watch);
extern void orion_gateway_listen_end(void);
extern void orion_gateway_listen_accept(Listener *listener);
extern bool orion_gateway_open_door(char *why, size_t size);

/* sharing.c: addresses are opened between begin, which gives a turn, and its end */
extern int	orion_gateway_sharing_begin(const GatewayConfig *config);
extern void orion_gateway_sharing_end(int turn);
extern bool orion_gateway_sharing_with(const GatewayConfig *config, const Listener *listener);

/*
 * addresses.c: connections of an address, at all processes.  enter counts another one and gives
 * their number.
 */
extern bool orion_gateway_addresses_start(void);
extern GatewayAddress orion_gateway_address_of(const struct sockaddr *sa);
extern uint32_t orion_gateway_addresses_enter(const GatewayAddress *address);
extern void orion_gateway_addresses_leave(const GatewayAddress *address);

/* daemon.c: false with a text for operators; then the servers are what they were */
extern bool orion_gateway_servers_start(const GatewayConfig *config, char *why, size_t size);
extern Server *orion_gateway_servers_find(bool tls);
extern void orion_gateway_servers_run(void);

/* Milliseconds until one has to be run, and marks it; max when it is not less. */
extern int	orion_gateway_servers_timeout(int max);

/* library.c: the library's own answers; our responses are queued through it */
extern bool orion_gateway_library_init(void);

/* From here to the end of the request the library reads nothing of the connection. */
extern void orion_gateway_library_suspend(struct MHD_Connection *connection, int fd);
extern void orion_gateway_library_resume(struct MHD_Connection *connection, int fd);
extern void orion_gateway_library_run(struct MHD_Daemon *daemon);
extern void orion_gateway_library_start(int fd, bool tls);
extern void orion_gateway_library_end_request(int fd);
extern void orion_gateway_library_ended(int fd);
extern void orion_gateway_library_look_again(void); /* after each turn */

/*
 * A request's head was head_len bytes long, with empty lines before it; what the library has read besides
 * begins at rest.  False when that is no chunked body, though it should be one.  Of what
 * comes later the client is told here.
 */
extern bool orion_gateway_library_body(Request *request, size_t head_len, const OrionHttpHead *head, const char *rest);
extern enum MHD_Result orion_gateway_library_queue(struct MHD_Connection *connection, unsigned int status,
												   struct MHD_Response *response);

/*
 * memory.c: makes room for n pools of a size, and gives the size that the
 * library is to be asked for; the pool of a connection that begins, to be asked for once;
 * and giving back what it does not need now.
 */
extern size_t orion_gateway_memory_shelve(size_t wanted, int n);
extern GatewayPool orion_gateway_memory_take(void);

/* between: two requests, so that only what was received is of use. */
extern void orion_gateway_memory_trim(GatewayPool pool, bool between);

/* What the library has read, and that a request begins, before it takes memory. */
extern void orion_gateway_memory_received(const char *bytes, size_t len);
extern void orion_gateway_memory_begin(GatewayPool pool);

/* server.c */
extern bool orion_gateway_server_init(void);
extern enum MHD_Result orion_gateway_server_handle(void *cls, struct MHD_Connection *connection, const char *url,
												   const char *method, const char *version, const char *data,
												   size_t *len, void **context);
extern void *orion_gateway_server_target_seen(void *cls, const char *uri, struct MHD_Connection *connection);
extern void orion_gateway_server_completed(void *cls, struct MHD_Connection *connection, void **context,
										   enum MHD_RequestTerminationCode code);
extern void orion_gateway_server_connection(void *cls, struct MHD_Connection *connection, void **context,
											enum MHD_ConnectionNotificationCode code);
extern void orion_gateway_server_hang_up_idle(void);
extern void orion_gateway_server_client_event(Client *client, uint32_t events);
extern void orion_gateway_server_sweep(void);
extern void orion_gateway_server_answer(Request *request, unsigned int status, struct MHD_Response *response);
extern void orion_gateway_server_resume(Client *client);
extern void orion_gateway_server_refuse(Request *request, const OrionHttpError *error);
extern bool orion_gateway_server_has_room(Request *request, size_t answer_len);
extern void orion_gateway_server_add_own_headers(struct MHD_Response *response, const char *request_id);

/*
 * head.c: the fields of an answer, one answer at a time.  add leaves out what must not be sent;
 * set puts them into the response: false when memory is out.
 */
extern void orion_gateway_head_begin(const char *request_id);
extern void orion_gateway_head_add(const char *name, size_t name_len, const char *value, size_t value_len);
extern bool orion_gateway_head_set(struct MHD_Response *response);

/* telemetry.c */
extern bool orion_gateway_telemetry_open(const GatewayConfig *config, char *why, size_t size);
extern bool orion_gateway_telemetry_serves(const Request *request);
extern bool orion_gateway_telemetry_ask(Request *request);
extern void orion_gateway_telemetry_forget(Request *request);
extern void orion_gateway_telemetry_answer(const char *server, size_t len);
extern void orion_gateway_telemetry_add_own(OrionBuffer *out);
extern void orion_gateway_telemetry_peer(Source *source);
extern void orion_gateway_telemetry_expire(void);
extern void orion_gateway_telemetry_observe(Request *request);
extern void orion_gateway_telemetry_flush(void);

/* park.c */
extern int	orion_gateway_park_count(void);
extern void orion_gateway_park(Request *request, uint64_t timeline, uint64_t lsn, int64_t ms);
extern void orion_gateway_park_leave(Request *request);
extern bool orion_gateway_park_replayed(uint64_t timeline, uint64_t lsn);
extern void orion_gateway_park_expire(void);

/* handoff.c */
extern int	orion_gateway_handoff_busy(void);
extern int	orion_gateway_handoff_waiting(void);
extern void orion_gateway_handoff_accept(void);
extern void orion_gateway_handoff_event(Executor *executor, uint32_t events);
extern bool orion_gateway_handoff_start(void);
extern bool orion_gateway_handoff_is_full(void);
extern void orion_gateway_handoff_submit(Request *request);
extern bool orion_gateway_handoff_has_answers(void);
extern void orion_gateway_handoff_collect(void);
extern void orion_gateway_handoff_wake(void);
extern void orion_gateway_handoff_cancel(Request *request);
extern void orion_gateway_handoff_pause(Executor *executor, bool pause);
extern void orion_gateway_handoff_stream_lost(int slot, Executor *executor);
extern void orion_gateway_handoff_bury(void);
extern void orion_gateway_handoff_expire(void);

#endif							/* ORION_GATEWAY_H */
