-- The demonstration data of `make up`; run again, it changes nothing.
-- Variables: email, password.
SET client_min_messages = warning;

SELECT status FROM orion_register(:'email', :'password') \gset
\echo registration of :email: :status
SELECT id AS demo FROM orion_private.users WHERE email = :'email' \gset

CREATE TABLE IF NOT EXISTS public.notes (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	owner uuid NOT NULL DEFAULT orion_uid(),
	body text NOT NULL CHECK (body <> ''),
	version bigint NOT NULL DEFAULT 1,
	created_at timestamptz NOT NULL DEFAULT now()
);
CREATE OR REPLACE TRIGGER version BEFORE UPDATE ON public.notes FOR EACH ROW EXECUTE FUNCTION orion_version_bump();
COMMENT ON TABLE public.notes IS 'Demonstration: everybody reads and writes only their own notes';
ALTER TABLE public.notes ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own ON public.notes;
CREATE POLICY own ON public.notes TO orion_user USING (owner = (SELECT orion_uid())) WITH CHECK (owner = (SELECT orion_uid()));
GRANT SELECT, INSERT, DELETE, UPDATE (body) ON public.notes TO orion_user;

-- Two of the demo user's, and one of somebody else's that the demo user never sees.
INSERT INTO public.notes (owner, body)
(VALUES (:'demo'::uuid, 'Buy milk'), (:'demo', 'Read the docs'), ('00000000-0000-4000-8000-000000000000', 'Not yours'))
EXCEPT SELECT owner, body FROM public.notes;
