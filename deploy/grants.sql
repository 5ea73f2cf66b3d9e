-- A role for the site and its workers that owns nothing and changes no schema. Run it as the owner of the
-- database, after `manage.py migrate` (which the owner runs):
--   psql "$OWNER_URL" --set role=webhooks_app --file deploy/grants.sql
GRANT USAGE ON SCHEMA public TO :role;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO :role;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO :role;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO :role;
-- Tables of later migrations.
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO :role;
-- A worker ends the connections of a dead one, which logged in as the same role.
GRANT pg_signal_backend TO :role;
-- A host that vanishes, as in a partition, closes no connection: Postgres then finds out after eleven
-- seconds instead of two hours, and rolls back what was open there. Until then ordered webhooks wait for it.
ALTER ROLE :role SET tcp_keepalives_idle = 5;
ALTER ROLE :role SET tcp_keepalives_interval = 2;
ALTER ROLE :role SET tcp_keepalives_count = 3;
ALTER ROLE :role SET tcp_user_timeout = 10000;
