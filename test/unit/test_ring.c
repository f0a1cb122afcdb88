// uses: bgworkers/ring.c -lpthread
/*
 * test_ring.c
 *	  The ring between gateway and executors: who owns a slot, hostile numbers, and
 *	  many executors at once with clients that leave.  Sanitizers see the races.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "ring.h"

#define REQUESTS	200000
#define WORKERS		4

static OrionRing *
new_ring(void)
{
	int			memory;
	OrionRing  *ring = orion_ring_create(&memory);

	assert_non_null(ring);
	close(memory);
	return ring;
}

static void
test_claim_and_answer(void **state)
{
	OrionRing  *ring = new_ring();
	uint8_t		bytes[ORION_RING_ROOM];
	uint32_t	len;
	uint32_t	head = 0;
	uint64_t	id;
	uint32_t	place;

	assert_int_equal(orion_ring_claim(ring, 3, &id, &place), -1);
	memcpy(orion_ring_data(ring, 5), "question", 8);
	assert_true(orion_ring_push(ring, 5, 77, 8));
	assert_int_equal(orion_ring_waiting(ring), 1);
	assert_int_equal(orion_ring_owner(ring, 5, 77), -1);
	assert_int_equal(orion_ring_claim(ring, 3, &id, &place), 5);
	assert_int_equal(id, 77);
	assert_int_equal(orion_ring_owner(ring, 5, 77), 3);
	assert_int_equal(orion_ring_owner(ring, 5, 76), -1);
	assert_int_equal(orion_ring_claim(ring, 4, &id, &place), -1);
	assert_true(orion_ring_copy(ring, 5, bytes, &len));
	assert_int_equal(len, 8);
	assert_memory_equal(bytes, "question", 8);
	assert_false(orion_ring_has_done(ring, 3, head));
	assert_int_equal(orion_ring_take_done(ring, 3, &head), -1);
	assert_false(orion_ring_done(ring, 3, 5, (const uint8_t *) "answer", 6));
	assert_true(orion_ring_has_done(ring, 3, head));
	assert_int_equal(orion_ring_take_done(ring, 3, &head), 5);
	assert_int_equal(orion_ring_take_done(ring, 3, &head), -1);
	assert_true(orion_ring_copy(ring, 5, bytes, &len));
	assert_memory_equal(bytes, "answer", 6);
	orion_ring_detach(ring);
}

static void
test_withdraw_and_cancel(void **state)
{
	OrionRing  *ring = new_ring();
	uint64_t	id;
	uint32_t	place;

	orion_ring_push(ring, 0, 1, 0);
	orion_ring_push(ring, 1, 2, 0);
	assert_true(orion_ring_withdraw(ring, 0, 1));
	assert_int_equal(orion_ring_claim(ring, 0, &id, &place), 1);
	assert_int_equal(id, 2);
	assert_int_equal(orion_ring_claim(ring, 0, &id, &place), -1);
	assert_false(orion_ring_withdraw(ring, 1, 2));
	assert_false(orion_ring_is_cancelled(ring, 1, 2, 0));
	orion_ring_cancel(ring, 1);
	assert_true(orion_ring_is_cancelled(ring, 1, 2, 0));
	assert_int_equal(orion_ring_owner(ring, 1, 2), 0);	/* still to be given
														 * back */
	orion_ring_push(ring, 1, 3, 0);
	assert_int_equal(orion_ring_claim(ring, 9, &id, &place), 1);
	assert_true(orion_ring_is_cancelled(ring, 1, 2, 0));
	orion_ring_detach(ring);
}

/* Withdrawn requests stay in the queue until an executor comes by. */
static void
test_queue_is_bounded(void **state)
{
	OrionRing  *ring = new_ring();
	uint64_t	id;
	uint32_t	place;
	int			pushed = 0;

	while (pushed < 1000 && orion_ring_push(ring, 0, pushed + 1, 0))
		assert_true(orion_ring_withdraw(ring, 0, ++pushed));
	assert_int_equal(pushed, ORION_RING_QUEUE);
	assert_int_equal(orion_ring_claim(ring, 0, &id, &place), -1);
	assert_true(orion_ring_push(ring, 0, 1001, 0));
	assert_int_equal(orion_ring_claim(ring, 0, &id, &place), 0);
	assert_int_equal(id, 1001);
	orion_ring_detach(ring);
}

static void
test_ringing(void **state)
{
	OrionRing  *ring = new_ring();
	uint64_t	id;
	uint32_t	place;

	assert_false(orion_ring_wake(ring, 2));
	assert_true(orion_ring_sleep(ring, 2));
	assert_true(orion_ring_is_asleep(ring, 2));
	assert_true(orion_ring_wake(ring, 2));
	assert_false(orion_ring_wake(ring, 2)); /* once is enough */
	assert_true(orion_ring_sleep(ring, 2));
	orion_ring_wake_up(ring, 2);
	assert_false(orion_ring_is_asleep(ring, 2));
	orion_ring_push(ring, 0, 1, 0);
	assert_false(orion_ring_sleep(ring, 2));
	assert_int_equal(orion_ring_claim(ring, 2, &id, &place), 0);
	orion_ring_gateway_sleep(ring, true);
	assert_true(orion_ring_done(ring, 2, 0, NULL, 0));
	assert_false(orion_ring_done(ring, 2, 0, NULL, 0));
	orion_ring_detach(ring);
}

static void
test_hostile_numbers(void **state)
{
	OrionRing  *ring = new_ring();
	static uint8_t bytes[ORION_RING_ROOM];
	uint32_t	len;
	uint32_t	head = 0;
	uint64_t	id;
	uint32_t	place;

	for (uint32_t bad = ORION_RING_ROOM + 1; bad > ORION_RING_ROOM; bad *= 2)
	{
		ring->slots[0].len = bad;
		assert_false(orion_ring_copy(ring, 0, bytes, &len));
	}
	ring->lanes[0].done[0] = ORION_RING_SLOTS;
	ring->lanes[0].done_tail = 1;
	assert_int_equal(orion_ring_take_done(ring, 0, &head), -2);
	ring->lanes[0].done[0] = 0;
	ring->lanes[0].done_tail = ORION_RING_SLOTS + 1;
	assert_int_equal(orion_ring_take_done(ring, 0, &head), -2);
	assert_int_equal(head, 0);
	ring->queue[0] = 1 << 8 | ORION_RING_SLOTS;
	ring->tail = 1;
	assert_int_equal(orion_ring_claim(ring, 0, &id, &place), -2);
	memset(ring->queue, 0, sizeof(ring->queue));
	ring->tail = ring->head + 1000000;
	assert_int_equal(orion_ring_claim(ring, 0, &id, &place), -2);	/* and it ends */
	assert_false(orion_ring_push(ring, 0, 1, 0));
	memset(ring, 0xff, sizeof(*ring));
	assert_int_equal(orion_ring_claim(ring, 0, &id, &place), -1);	/* head = tail */
	ring->tail = 3;
	assert_int_equal(orion_ring_claim(ring, 0, &id, &place), -2);
	assert_int_equal(orion_ring_owner(ring, 0, UINT64_MAX >> 8), -1);
	orion_ring_detach(ring);
}

static void
test_passing(void **state)
{
	int			pair[2];
	int			memory;
	int			got_memory;
	int			got_bell;
	int			bell = eventfd(0, EFD_NONBLOCK);
	char		bytes[4];
	OrionRing  *ring = orion_ring_create(&memory);
	OrionRing  *other;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(orion_ring_receive(pair[1], bytes, 4, &got_memory, &got_bell), -1);
	assert_int_equal(got_memory, -1);
	assert_true(orion_ring_pass(pair[0], "ring", 4, memory, bell));
	assert_int_equal(orion_ring_receive(pair[1], bytes, 4, &got_memory, &got_bell), 4);
	assert_memory_equal(bytes, "ring", 4);
	other = orion_ring_attach(got_memory);
	assert_non_null(other);
	memcpy(orion_ring_data(ring, 1), "same", 4);
	assert_memory_equal(orion_ring_data(other, 1), "same", 4);
	assert_int_equal(ftruncate(got_memory, 0), -1);
	assert_int_equal(write(pair[0], "none", 4), 4);
	close(got_memory);
	close(got_bell);
	assert_int_equal(orion_ring_receive(pair[1], bytes, 4, &got_memory, &got_bell), 4);
	assert_int_equal(got_memory, -1);
	assert_int_equal(got_bell, -1);
	orion_ring_detach(other);
	orion_ring_detach(ring);
	close(memory);
	close(bell);
	close(pair[0]);
	close(pair[1]);
}

/* What could be cut short under an executor, or is no ring at all, is not mapped. */
static void
test_attach_refuses(void **state)
{
	int			memory = memfd_create("x", MFD_ALLOW_SEALING);

	assert_int_equal(ftruncate(memory, sizeof(OrionRing)), 0);
	assert_null(orion_ring_attach(memory));
	assert_null(orion_ring_attach(-1));
	close(memory);
}

typedef struct Stress
{
	OrionRing  *ring;
	int			lane;
	int			bell[2];		/* pipe: wakes this executor */
	int			gateway_bell;	/* pipe's end: wakes the gateway */
	bool		stop;
	int			served;
}			Stress;

/* Sleeps as an executor does; a lost wake-up would hang the test. */
static void *
executor(void *arg)
{
	Stress	   *me = arg;
	uint8_t		bytes[ORION_RING_ROOM];
	uint64_t	id;
	uint32_t	place;
	uint32_t	len;
	char		c;
	int			slot;

	for (;;)
	{
		slot = orion_ring_claim(me->ring, me->lane, &id, &place);
		if (slot >= 0)
		{
			if (!orion_ring_copy(me->ring, slot, bytes, &len) || len != 8 || memcmp(bytes, &id, 8) != 0)
				abort();
			me->served++;
			id = ~id;
			if (orion_ring_done(me->ring, me->lane, slot, (uint8_t *) &id, 8) && write(me->gateway_bell, "", 1) != 1)
				abort();
			continue;
		}
		if (slot == -2)
			abort();
		if (__atomic_load_n(&me->stop, __ATOMIC_SEQ_CST))
			return NULL;
		if (orion_ring_sleep(me->ring, me->lane) && read(me->bell[0], &c, 1) != 1)
			abort();
		orion_ring_wake_up(me->ring, me->lane);
	}
}

typedef struct Sent
{
	uint64_t	id;
	bool		cancelled;
} Sent;

static void
test_stress(void **state)
{
	OrionRing  *ring = new_ring();
	Stress		executors[WORKERS] = {0};
	pthread_t	threads[WORKERS];
	uint32_t	heads[WORKERS] = {0};
	Sent		sent[ORION_RING_SLOTS] = {0};
	int			gateway_bell[2];
	uint64_t	next = 0;
	int			finished = 0;
	int			served = 0;
	int			withdrawn = 0;
	uint8_t		bytes[ORION_RING_ROOM];
	uint32_t	len;
	char		c;

	assert_int_equal(pipe(gateway_bell), 0);
	for (int i = 0; i < WORKERS; i++)
	{
		executors[i] = (Stress)
		{
			.ring = ring,.lane = i * 7,.gateway_bell = gateway_bell[1]
		};
		assert_int_equal(pipe(executors[i].bell), 0);
		pthread_create(&threads[i], NULL, executor, &executors[i]);
	}
	while (finished < REQUESTS)
	{
		bool		some = false;

		for (int i = 0; i < WORKERS; i++)
		{
			int			slot;

			while ((slot = orion_ring_take_done(ring, i * 7, &heads[i])) >= 0)
			{
				uint64_t	answer;

				assert_int_equal(orion_ring_owner(ring, slot, sent[slot].id), i * 7);
				assert_true(orion_ring_copy(ring, slot, bytes, &len));
				memcpy(&answer, bytes, 8);
				assert_int_equal(answer, ~sent[slot].id);
				sent[slot].id = 0;
				finished++;
				some = true;
			}
			assert_int_equal(slot, -1);
		}
		for (int slot = 0; slot < ORION_RING_SLOTS && next < REQUESTS; slot++)
		{
			uint64_t	id = next + 1;

			if (sent[slot].id != 0)
				continue;
			memcpy(orion_ring_data(ring, slot), &id, 8);
			if (!orion_ring_push(ring, slot, id, 8))
				break;
			next = id;
			sent[slot].id = id;
			some = true;
			if (id % 5 == 0)
			{
				if (orion_ring_withdraw(ring, slot, id))
				{
					sent[slot].id = 0;
					finished++;
					withdrawn++;
				}
				else
					orion_ring_cancel(ring, slot);
			}
			if (id % 17 == 0)
				break;			/* a turn with few requests */
		}
		for (int i = 0; i < WORKERS; i++)
		{
			if (orion_ring_waiting(ring) > 0 && orion_ring_wake(ring, i * 7))
				assert_int_equal(write(executors[i].bell[1], "", 1), 1);
		}
		if (some)
			continue;
		orion_ring_gateway_sleep(ring, true);
		for (int i = 0; i < WORKERS; i++)
			some |= orion_ring_has_done(ring, i * 7, heads[i]);
		if (!some && finished < REQUESTS)
		{
			struct pollfd pfd = {.fd = gateway_bell[0],.events = POLLIN};

			/*
			 * with the queue full of withdrawn entries, an executor may be
			 * owed a bell
			 */
			if (poll(&pfd, 1, orion_ring_waiting(ring) > 0 ? 1 : 20000) == 1)
				assert_int_equal(read(gateway_bell[0], &c, 1), 1);
			else
				assert_true(orion_ring_waiting(ring) > 0);	/* else a bell was lost */
		}
		orion_ring_gateway_sleep(ring, false);
	}
	for (int i = 0; i < WORKERS; i++)
	{
		__atomic_store_n(&executors[i].stop, true, __ATOMIC_SEQ_CST);
		assert_int_equal(write(executors[i].bell[1], "", 1), 1);
		pthread_join(threads[i], NULL);
		served += executors[i].served;
		close(executors[i].bell[0]);
		close(executors[i].bell[1]);
	}
	close(gateway_bell[0]);
	close(gateway_bell[1]);
	assert_int_equal(served + withdrawn, REQUESTS);
	orion_ring_detach(ring);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_claim_and_answer),
		cmocka_unit_test(test_withdraw_and_cancel),
		cmocka_unit_test(test_queue_is_bounded),
		cmocka_unit_test(test_ringing),
		cmocka_unit_test(test_hostile_numbers),
		cmocka_unit_test(test_passing),
		cmocka_unit_test(test_attach_refuses),
		cmocka_unit_test(test_stress),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
