// uses: -lsodium
/*
 * raw_pwhash.c
 *	  How many Argon2id hashes a second this machine makes: what a login can reach.
 *
 * raw_pwhash MEMORY PASSES PROCESSES SECONDS; memory in KiB.  Prints hashes a second
 * of all processes together, and microseconds of processor time for each.
 */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* Verifies one hash again and again; writes its rate to fd. */
static void
hash_for(size_t memory, unsigned long long passes, double seconds, int fd)
{
	char		hash[crypto_pwhash_STRBYTES];
	double		begin;
	double		done[2];
	long		n = 0;

	if (crypto_pwhash_str(hash, "correct horse", 13, passes, memory) != 0)
		exit(1);
	begin = now();
	do
	{
		if (crypto_pwhash_str_verify(hash, "correct horse", 13) != 0)
			exit(1);
		n++;
	} while (now() - begin < seconds);
	done[0] = n / (now() - begin);
	done[1] = n + 1;			/* the one that made the hash, too */
	exit(write(fd, done, sizeof(done)) != sizeof(done));
}

int
main(int argc, char **argv)
{
	double		sum = 0;
	double		count = 0;
	struct rusage used;
	int			fds[2];
	int			processes;

	if (argc != 5 || sodium_init() < 0 || pipe(fds) != 0)
	{
		fprintf(stderr, "usage: raw_pwhash KiB PASSES PROCESSES SECONDS\n");
		return 1;
	}
	processes = atoi(argv[3]);
	for (int i = 0; i < processes; i++)
	{
		if (fork() == 0)
			hash_for(strtoul(argv[1], NULL, 10) * 1024, strtoul(argv[2], NULL, 10), atof(argv[4]), fds[1]);
	}
	for (int i = 0; i < processes; i++)
	{
		double		done[2];
		int			status;

		if (wait(&status) < 0 || status != 0 || read(fds[0], done, sizeof(done)) != sizeof(done))
			return 1;
		sum += done[0];
		count += done[1];
	}
	getrusage(RUSAGE_CHILDREN, &used);
	printf("%.3f %.1f\n", sum, (used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6) / count * 1e6);
	return 0;
}
