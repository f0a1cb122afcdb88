/*
 * child.c
 *	  Starts, watches and ends a program on behalf of a worker.
 *
 * Runs in gateway and relay workers.  The child must not run any handler of ours
 * between fork and exec, so all signals are blocked across the fork and set back
 * to their defaults in the child before they are unblocked.  PR_SET_PDEATHSIG
 * covers a worker killed with -9; end of file on the socket covers the rest.
 */
#include "postgres.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "port.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "child.h"
#include "pool.h"

#define BACKOFF_MAX_MS	10000L

static const int reset_signals[] = {
	SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGALRM, SIGUSR1, SIGUSR2, SIGCHLD, SIGFPE
};

static void
program_path(char *path, const char *program)
{
	strlcpy(path, my_exec_path, MAXPGPATH);
	get_parent_directory(path);
	join_path_components(path, path, program);
}

/*
 * In the child: only async-signal-safe calls, and no return.  glibc's cache for a
 * thread is to hold all blocks that one answer takes and frees.
 */
static void
become_program(const char *path, const char *program, int fd, pid_t parent)
{
	char	   *argv[2] = {unconstify(char *, program), NULL};
	char	   *envp[4] = {"PATH=/usr/bin:/bin", "LC_ALL=C", "GLIBC_TUNABLES=glibc.malloc.tcache_count=64", NULL};
	sigset_t	none;

	for (int i = 0; i < lengthof(reset_signals); i++)
		signal(reset_signals[i], SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);

	/*
	 * What cancels the worker's query is sent to its group (a timeout of a
	 * statement, pg_cancel_backend).
	 */
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);				/* the worker died before the line above */
	if (fd != ORION_CHILD_FD && dup2(fd, ORION_CHILD_FD) < 0)
		_exit(1);
	fcntl(ORION_CHILD_FD, F_SETFD, 0);
	close_range(ORION_CHILD_FD + 1, ~0U, 0);
	execve(path, argv, envp);
	_exit(127);					/* as a shell says "cannot execute" */
}

static pid_t
fork_program(const char *program, int fd)
{
	char		path[MAXPGPATH];
	pid_t		parent = getpid();
	sigset_t	all,
				before;
	pid_t		pid;

	program_path(path, program);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid == 0)
		become_program(path, program, fd, parent);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return pid;
}

/*
 * A worker that leaves takes its program along and waits for its end: left to the
 * process that adopts orphans, it would stay a zombie where that one reaps nobody,
 * as the first process of many containers does.
 */
static void
end_with_worker(int code, Datum arg)
{
	OrionChild *child = (OrionChild *) DatumGetPointer(arg);

	if (child->pid <= 0)
		return;
	orion_child_leave(child, child->leave_ms);
	kill(child->pid, SIGKILL);
	waitpid(child->pid, NULL, 0);
}

/* Its end shows as the end of file; what it says until then is of no interest. */
void
orion_child_leave(OrionChild *child, int timeout_ms)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	struct pollfd pfd = {.fd = child->fd,.events = POLLIN};
	char		ignored[1024];

	if (child->pid <= 0 || child->fd < 0 || timeout_ms <= 0)
		return;
	shutdown(child->fd, SHUT_WR);
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);

		if (left <= 0)
			return;
		if (poll(&pfd, 1, (int) left) > 0)
		{
			ssize_t		n = recv(child->fd, ignored, sizeof(ignored), MSG_DONTWAIT);

			if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
				return;
		}
	}
}

void
orion_child_start(OrionChild *child, const char *program, const char *config)
{
	static bool registered = false;
	int			pair[2];

	Assert(child->pid == 0);
	child->program = program;
	if (!registered)
		on_proc_exit(end_with_worker, PointerGetDatum(child));
	registered = true;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not create a socket pair for \"%s\": %m", program)));
	child->pid = fork_program(program, pair[1]);
	close(pair[1]);
	if (child->pid < 0)
	{
		child->pid = 0;
		close(pair[0]);
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start \"%s\": %m", program)));
	}
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	child->fd = pair[0];
	orion_frame_begin(&child->out, ORION_FRAME_CONFIG, 0);
	orion_frame_put_str(&child->out, config);
	orion_frame_end(&child->out);
	orion_buffer_flush(&child->out, child->fd);
	child->failures++;			/* until the owner sees it healthy */
	orion_pool_report_program(child->pid);
}

static void
describe_exit(int status, char *why, size_t size)
{
	if (WIFSIGNALED(status))
		snprintf(why, size, "killed by signal %d", WTERMSIG(status));
	else if (WEXITSTATUS(status) == 127)
		snprintf(why, size, "could not be executed");
	else
		snprintf(why, size, "exited with code %d", WEXITSTATUS(status));
}

void
orion_child_stop(OrionChild *child, char *why, size_t size)
{
	int			status = 0;

	if (size > 0)
		why[0] = '\0';
	if (child->fd >= 0 && child->pid > 0)
	{
		orion_pool_forget_fd();
		close(child->fd);
	}
	child->fd = -1;
	if (child->pid > 0)
	{
		/* It may have died by itself just now; only then is its status news. */
		pg_usleep(1000L);
		if (waitpid(child->pid, &status, WNOHANG) == 0)
		{
			kill(child->pid, SIGKILL);
			waitpid(child->pid, &status, 0);
		}
		describe_exit(status, why, size);
		child->pid = 0;
		orion_pool_report_program(0);
	}
	orion_buffer_free(&child->in);
	orion_buffer_free(&child->out);
}

TimestampTz
orion_child_lose(OrionChild *child, const char *problem, char *report, size_t size)
{
	char		why[64];

	orion_child_stop(child, why, sizeof(why));
	snprintf(report, size, "%s %s", child->program, problem && problem[0] ? problem : why);
	ereport(LOG, (errmsg("%s", report)));
	orion_pool_count_restart();
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), orion_child_backoff(child));
}

long
orion_child_backoff(const OrionChild *child)
{
	long		ms = 100;

	if (child->failures <= 1)
		return 0;
	for (int i = 2; i < child->failures && ms < BACKOFF_MAX_MS; i++)
		ms *= 2;
	return Min(ms, BACKOFF_MAX_MS);
}
