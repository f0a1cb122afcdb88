/*
 * mock_kafka.c
 *	  librdkafka's mock of a Kafka cluster (what `kcat -M` offers; Debian's kcat is built
 *	  without it): prints the address of its broker, and is there until end of input.
 *
 * A line "error CODE" makes it refuse the next produce request with that error of the protocol;
 * it answers "done".
 */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <stdlib.h>

#define API_PRODUCE	0			/* https://kafka.apache.org/protocol#protocol_api_keys */

int
main(void)
{
	char		text[512];
	rd_kafka_t *owner = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), text, sizeof(text));
	rd_kafka_mock_cluster_t *cluster = owner ? rd_kafka_mock_cluster_new(owner, 1) : NULL;

	if (cluster == NULL)
	{
		fprintf(stderr, "no mock cluster: %s\n", owner ? "out of memory" : text);
		return 1;
	}
	printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
	fflush(stdout);
	while (fgets(text, sizeof(text), stdin))
	{
		int			code;

		if (sscanf(text, "error %d", &code) == 1)
		{
			rd_kafka_mock_push_request_errors(cluster, API_PRODUCE, 1, (rd_kafka_resp_err_t) code);
			printf("done\n");
			fflush(stdout);
		}
	}
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(owner);
	return 0;
}
