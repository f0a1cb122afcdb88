/*
 * redis_cluster.c
 *	  Slots and redirections; see redis_cluster.h.
 */
#include "redis_cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* CRC-16/XMODEM: polynomial 0x1021, begins with 0. */
static unsigned
crc16(const char *bytes, size_t len)
{
	unsigned	crc = 0;

	for (size_t i = 0; i < len; i++)
	{
		crc ^= (unsigned) (unsigned char) bytes[i] << 8;
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 0x8000 ? (crc << 1 ^ 0x1021) & 0xffff : crc << 1 & 0xffff;
	}
	return crc;
}

unsigned
orion_redis_slot(const char *key, size_t len)
{
	const char *open = len > 0 ? memchr(key, '{', len) : NULL;
	const char *end = open ? memchr(open, '}', len - (open - key)) : NULL;

	if (end && end > open + 1)
		return crc16(open + 1, end - open - 1) % ORION_REDIS_SLOTS;
	return crc16(key, len) % ORION_REDIS_SLOTS;
}

int
orion_redis_map_find(OrionRedisMap *map, const char *host, size_t len, long long port)
{
	OrionRedisNode *node;

	for (int i = 0; i < map->n; i++)
	{
		node = &map->nodes[i];
		if (node->port == port && strlen(node->host) == len && memcmp(node->host, host, len) == 0)
			return i;
	}
	if (map->n == ORION_REDIS_NODES || len >= sizeof(node->host) || port < 1 || port > 65535)
		return -1;
	node = &map->nodes[map->n];
	memcpy(node->host, host, len);
	node->host[len] = '\0';
	node->port = (int) port;
	return map->n++;
}

static bool
is_string(const redisReply *reply)
{
	return reply->type == REDIS_REPLY_STRING && reply->len > 0 && memchr(reply->str, '\0', reply->len) == NULL;
}

/* [first slot, last slot, [host, port, ...] of the master, replicas ...] */
static bool
read_range(OrionRedisMap *map, const redisReply *range, const char *asked)
{
	const redisReply *master;
	const char *host;
	int			node;

	if (range->type != REDIS_REPLY_ARRAY || range->elements < 3 ||
		range->element[0]->type != REDIS_REPLY_INTEGER || range->element[1]->type != REDIS_REPLY_INTEGER)
		return false;
	master = range->element[2];
	if (range->element[0]->integer < 0 || range->element[1]->integer >= ORION_REDIS_SLOTS ||
		master->type != REDIS_REPLY_ARRAY || master->elements < 2 || master->element[1]->type != REDIS_REPLY_INTEGER)
		return false;
	host = is_string(master->element[0]) ? master->element[0]->str : asked;
	node = orion_redis_map_find(map, host, strlen(host), master->element[1]->integer);
	if (node < 0)
		return false;
	for (long long slot = range->element[0]->integer; slot <= range->element[1]->integer; slot++)
		map->owner[slot] = (int16_t) node;
	return true;
}

bool
orion_redis_map_read(OrionRedisMap *map, const redisReply *reply, const char *asked)
{
	map->n = 0;
	memset(map->owner, 0xff, sizeof(map->owner));	/* -1 */
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements == 0)
		return false;
	for (size_t i = 0; i < reply->elements; i++)
	{
		if (!read_range(map, reply->element[i], asked))
			return false;
	}
	return true;
}

bool
orion_redis_redirect_read(const char *error, OrionRedisRedirect *redirect)
{
	const char *colon;
	char	   *end;
	unsigned long slot;

	redirect->ask = strncmp(error, "ASK ", 4) == 0;
	if (!redirect->ask && strncmp(error, "MOVED ", 6) != 0)
		return false;
	error += redirect->ask ? 4 : 6;
	slot = strtoul(error, &end, 10);
	if (end == error || *end != ' ' || slot >= ORION_REDIS_SLOTS)
		return false;
	redirect->slot = (unsigned) slot;
	redirect->host = end + 1;
	colon = strrchr(redirect->host, ':');
	if (colon == NULL)
		return false;
	redirect->host_len = colon - redirect->host;
	redirect->port = atoi(colon + 1);
	return redirect->port >= 1 && redirect->port <= 65535;
}
