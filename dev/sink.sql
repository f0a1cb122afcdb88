-- The sink of one kind for `make up`. Variables: kind; url, empty when that server
-- does not run; changed, whether the url is another than at the last run.
SET client_min_messages = warning;
SELECT :'url' <> '' AS runs, EXISTS (SELECT FROM orion_private.sinks WHERE name = :'kind') AS exists,
	coalesce((SELECT paused FROM orion_private.sinks WHERE name = :'kind'), false) AS paused,
	jsonb_build_object('url', :'url') || CASE :'kind'
		WHEN 'redis' THEN '{"cache": [{"pattern": "user.*", "del": ["user:profile:{aggregateid}"]}]}'::jsonb ELSE '{}' END AS config \gset
\if :runs
	\if :exists
		\if :changed
			UPDATE orion_private.sinks SET config = orion_private.sink_seal(:'config', name) WHERE name = :'kind';
		\endif
		\if :paused
			SELECT orion_sink_resume(:'kind');
		\endif
	\else
		SELECT orion_sink_create(:'kind', :'kind', :'config');
	\endif
\elif :exists
	SELECT orion_sink_pause(:'kind');
\endif
