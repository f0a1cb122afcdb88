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
#include <sys/types.h>

#include "frame.h"
#include "gateway/http.h"
#include "gateway/queue.h"
#include "ring.h"

#define ORION_GATEWAY_MAX_LISTENERS 16

/* From the CONFIG frame; the worker has the settings these come from. */
typedef struct GatewayConfig
{
	char		version[32];
	char		listen_addresses[1024];
	int			port;
	uint64_t	max_body;		/* bytes */
	size_t		max_header;		/* bytes: request line and headers */
	int64_t		idle_timeout;	/* milliseconds */
	int			queue_size;
	int64_t		queue_timeout;	/* milliseconds */
	int			max_connections;
	int			max_connections_per_address;	/* 0: no limit */
} GatewayConfig;

/* What an event of the epoll is about; the first member of the thing itself. */
typedef enum SourceKind
{
	SOURCE_PARENT,				/* the worker: end of file means leave */
	SOURCE_HTTP,				/* the HTTP server's own epoll */
	SOURCE_LISTENER,
	SOURCE_DOOR,				/* where executors connect */
	SOURCE_BELL,				/* an executor has answered */
	SOURCE_EXECUTOR,
	SOURCE_CLIENT,				/* a client's socket: only its hanging up */
} SourceKind;

typedef struct Source
{
	SourceKind	kind;
	int			fd;
} Source;

typedef enum RequestState
{
	REQUEST_NEW,				/* target known, headers being read */
	REQUEST_READING,			/* body */
	REQUEST_QUEUED,				/* in the queue; connection suspended */
	REQUEST_OUT,				/* in the ring; connection suspended */
	REQUEST_ANSWERED,			/* response is set; connection resumed */
	REQUEST_ABORTED,			/* no answer; connection to be closed */
} RequestState;

typedef struct Client Client;
typedef struct Executor Executor;

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
	uint64_t	answer_held;	/* bytes of a large answer in memory */
	bool		safe;			/* GET or HEAD: may be given to another
								 * executor */
	bool		retried;
	bool		close;			/* close the connection after the answer */
	const OrionHttpError *error;	/* answer to give once the request is read */
	struct MHD_Response *own;	/* shared answer of /health or /ready */
	struct MHD_Response *response;	/* of an executor, ours to release */
	unsigned int status;
	size_t		target_len;
	char		request_id[ORION_HTTP_MAX_REQUEST_ID + 1];
	char		target[ORION_HTTP_MAX_TARGET + 1];
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
	ClientList *list;			/* the list it is in, or NULL */
	Client	   *prev;
	Client	   *next;
	int64_t		since;			/* when it entered the list */
	uint64_t	seen;			/* body bytes at the last look */
	bool		half_closed;	/* it will send no more */
	Request    *request;		/* the current one, or NULL */
	char		address[64];
};

struct Executor
{
	Source		source;
	pid_t		pid;
	bool		greeted;
	bool		dead;			/* to be freed at the end of this turn */
	bool		want_write;		/* epoll watches for writability */
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
	struct MHD_Daemon *daemon;
	Source		parent;
	Source		http;
	Source		door;
	Source		bell;
	OrionRing  *ring;
	int			ring_memory;
	Source		listeners[ORION_GATEWAY_MAX_LISTENERS];
	int			nlisteners;
	bool		listening;		/* the listeners are in the epoll */
	bool		run_http;		/* the HTTP server has something to do */
	OrionQueue	queue;
	Executor   *executors;
	Executor   *dead;
	int			nexecutors;
	bool		wake_due;		/* a request waits and an executor sleeps */
	ClientList	reading;		/* they owe us a request, or the rest of one */
	ClientList	leaving;		/* half-closed, and their request is underway */
	int			nclients;
} Gateway;

extern Gateway orion_gateway;

/* main.c */
extern bool orion_gateway_watch(Source *source, uint32_t events);
extern void orion_gateway_complain(const char *fmt,...) __attribute__((format(printf, 1, 2)));

/* config.c: false when the JSON is not what the worker writes. */
extern bool orion_gateway_config_parse(const char *json, size_t len, GatewayConfig *config);

/* listen.c: false with a text for operators when an address cannot be had. */
extern bool orion_gateway_listen(char *why, size_t size);
extern bool orion_gateway_open_door(char *why, size_t size);

/* library.c: the library's own answers; our responses are queued through it */
extern bool orion_gateway_library_init(void);
extern enum MHD_Result orion_gateway_library_queue(struct MHD_Connection *connection, unsigned int status,
												   struct MHD_Response *response);

/* server.c */
extern bool orion_gateway_server_start(void);
extern void orion_gateway_server_accept(Source *listener);
extern void orion_gateway_server_run(void);
extern void orion_gateway_server_client_event(Client *client, uint32_t events);
extern void orion_gateway_server_sweep(void);
extern void orion_gateway_server_answer(Request *request, unsigned int status, struct MHD_Response *response);
extern void orion_gateway_server_refuse(Request *request, const OrionHttpError *error);
extern bool orion_gateway_server_has_room(Request *request, size_t answer_len);
extern struct MHD_Response *orion_gateway_server_error(const OrionHttpError *error, const char *request_id);
extern void orion_gateway_server_add_own_headers(struct MHD_Response *response, const char *request_id);

/* handoff.c */
extern void orion_gateway_handoff_accept(void);
extern void orion_gateway_handoff_event(Executor *executor, uint32_t events);
extern bool orion_gateway_handoff_start(void);
extern bool orion_gateway_handoff_is_full(void);
extern void orion_gateway_handoff_submit(Request *request);
extern bool orion_gateway_handoff_has_answers(void);
extern void orion_gateway_handoff_collect(void);
extern void orion_gateway_handoff_wake(void);
extern void orion_gateway_handoff_cancel(Request *request);
extern void orion_gateway_handoff_bury(void);
extern void orion_gateway_handoff_expire(void);

#endif							/* ORION_GATEWAY_H */
