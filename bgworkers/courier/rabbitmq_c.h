/*
 * rabbitmq_c.h
 *	  The headers of librabbitmq, which have moved between 0.11 and 0.15.
 */
#ifndef ORION_RABBITMQ_C_H
#define ORION_RABBITMQ_C_H

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#endif

#endif							/* ORION_RABBITMQ_C_H */
