import django.db.models.functions.datetime
from django.db import migrations, models

# What tells one life of transaction ids from another: the cluster, and its timeline, which a
# promoted standby and a recovery to a point in time begin anew. Where one of them is hidden from us
# a question mark takes its place; restored dumps are then known by their transaction ids alone. All
# roles see what the owner of the function does: they must come to the same epoch.
CLUSTER_SQL = """
CREATE OR REPLACE FUNCTION webhooks_cluster() RETURNS text LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cluster text := '?';
    timeline text := '?';
BEGIN
    BEGIN
        cluster := system_identifier FROM pg_control_system();
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    BEGIN
        timeline := left(pg_walfile_name(pg_current_wal_lsn()), 8);
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    RETURN cluster || '/' || timeline;
END $$
"""

# The epoch that follows from what is committed, without writing anything: until it is recorded
# everybody comes to the same number. It is another one than the latest recorded where that is
# another cluster's, and where events are found that this cluster cannot have stored: what this
# snapshot sees is below its xmax.
# Rows of a later epoch than any recorded are ours if they are below it, too.
EXAMINE_SQL = """
CREATE OR REPLACE FUNCTION webhooks_examine_epoch() RETURNS bigint LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    recorded bigint;
    recorded_cluster text;
    found_epoch bigint;
    found_transaction xid8;
    number_here bigint;
BEGIN
    SELECT number, cluster INTO recorded, recorded_cluster
      FROM webhooks_epoch ORDER BY number DESC LIMIT 1;
    recorded := coalesce(recorded, 0);
    IF pg_is_in_recovery() THEN
        RETURN recorded;
    END IF;
    SELECT epoch, transaction_id INTO found_epoch, found_transaction
      FROM webhooks_event
     WHERE (epoch, transaction_id) >= (recorded, pg_snapshot_xmax(pg_current_snapshot()))
       AND transaction_id IS DISTINCT FROM pg_current_xact_id_if_assigned()
     ORDER BY epoch DESC, transaction_id DESC LIMIT 1;
    number_here := greatest(
        recorded + (recorded_cluster IS DISTINCT FROM webhooks_cluster())::int,
        found_epoch + (found_transaction >= pg_snapshot_xmax(pg_current_snapshot()))::int);
    IF number_here = recorded THEN
        -- True of this backend, which cannot outlive its cluster, whoever a pooler lends it to next.
        PERFORM set_config('webhooks.cluster', recorded_cluster, false);
    END IF;
    RETURN number_here;
END $$
"""

# Stable: it must see what the statement sees that calls it (and a new column is added at once).
CURRENT_SQL = """
CREATE OR REPLACE FUNCTION webhooks_current_epoch() RETURNS bigint LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT AS $$
DECLARE
    recorded bigint;
    recorded_cluster text;
BEGIN
    SELECT number, cluster INTO recorded, recorded_cluster
      FROM webhooks_epoch ORDER BY number DESC LIMIT 1;
    IF recorded_cluster = current_setting('webhooks.cluster', true) THEN
        RETURN recorded;
    END IF;
    RETURN webhooks_examine_epoch();
END $$
"""

# The first transaction that may still store events here. Stable again: a later horizon than that of
# the statement which calls it would hide what commits between the two. Every role may see the
# database and the transaction of every session. A session may be missing or gone, and then its
# transaction counts; that it is another database's is read after the snapshot was taken, when
# whoever has the id has had it all the time. A standby's snapshot does not list what runs. (The
# function keeps the cost of looking at all sessions from statements that need not look.)
HORIZON_SQL = """
CREATE OR REPLACE FUNCTION webhooks_horizon() RETURNS xid8 LANGUAGE plpgsql STABLE AS $$
DECLARE
    seen pg_snapshot := pg_current_snapshot();
    here oid;
BEGIN
    IF pg_snapshot_xmin(seen) = pg_snapshot_xmax(seen) OR pg_is_in_recovery() THEN
        RETURN pg_snapshot_xmin(seen);
    END IF;
    here := oid FROM pg_database WHERE datname = current_database();
    -- Postgres shows the sessions as they were when this transaction first looked.
    PERFORM pg_stat_clear_snapshot();
    RETURN least(pg_current_xact_id_if_assigned(), pg_snapshot_xmax(seen), (
        SELECT running.id FROM pg_snapshot_xip(seen) AS running (id)
         WHERE NOT EXISTS (
                SELECT FROM pg_stat_get_activity(NULL) other
                 WHERE other.backend_xid = running.id::xid AND other.datid <> here)
           AND NOT EXISTS (
                SELECT FROM pg_prepared_xact() other
                 WHERE other.transaction = running.id::xid AND other.dbid <> here)
         ORDER BY running.id LIMIT 1));
END $$
"""


class Migration(migrations.Migration):
    """Neither column rewrites its table; what is stored already is of the first epoch."""

    dependencies = [("webhooks", "0005_idempotency_by_source")]

    operations = [
        migrations.CreateModel(
            name="Epoch",
            fields=[
                ("number", models.BigIntegerField(primary_key=True, serialize=False)),
                ("cluster", models.TextField(help_text="Its system identifier and timeline.")),
                (
                    "started_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
            ],
        ),
        migrations.RunSQL(
            [CLUSTER_SQL, EXAMINE_SQL, CURRENT_SQL, HORIZON_SQL],
            [
                "DROP FUNCTION webhooks_horizon()",
                "DROP FUNCTION webhooks_current_epoch()",
                "DROP FUNCTION webhooks_examine_epoch()",
                "DROP FUNCTION webhooks_cluster()",
            ],
        ),
        migrations.AddField(
            model_name="event",
            name="epoch",
            field=models.BigIntegerField(
                db_default=1, help_text="Whose transaction id it is: see Epoch."
            ),
        ),
        migrations.AddField(
            model_name="delivery",
            name="epoch",
            field=models.BigIntegerField(
                db_default=1,
                help_text=(
                    "Whose transaction the order key is: see Epoch. It says nothing where there is"
                    " no order key."
                ),
                null=True,
            ),
        ),
    ]
