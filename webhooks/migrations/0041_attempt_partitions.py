"""Attempts move to daily partitions by their delivery's id.

The key is the delivery's id, not the attempt's own: so a delivery still has each attempt number once
(a unique key of a partitioned table contains its partition key), all attempts of a delivery are in
one partition, which every query by delivery finds without reading others, and no worker's clock
decides where a row goes.

The table of before becomes the first partition, up to a day soon to come, as it is: no row moves.
Each step may be repeated, and none blocks writers for longer than a short wait for a lock.
"""

from django.db import migrations, transaction

PARTITIONS_SQL = """
CREATE OR REPLACE FUNCTION webhooks_attempt_partitions()
RETURNS TABLE (name text, first_id uuid, end_id uuid) LANGUAGE sql STABLE
SET search_path = {schema}, pg_temp AS $$
    -- Without the default partition.
    SELECT c.relname::text,
           coalesce(substring(bounds FROM 'FROM \\(''([^'']+)''\\)')::uuid,
                    '00000000-0000-0000-0000-000000000000'),
           substring(bounds FROM 'TO \\(''([^'']+)''\\)')::uuid
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     CROSS JOIN pg_get_expr(c.relpartbound, c.oid) AS bounds
     WHERE i.inhparent = 'webhooks_attempt'::regclass AND bounds <> 'DEFAULT'
     ORDER BY 2
$$
"""

# The owner's rights, because the role of the workers may change no schema. A row of this day that came
# before its partition is in the default one: it moves, unless there are so many that settling would
# wait for it; then they stay there, where everything finds them as well.
MAKE_SQL = """
CREATE OR REPLACE FUNCTION webhooks_make_attempt_partition(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {schema}, pg_temp SET lock_timeout = '150ms' SET enable_seqscan = off AS $$
DECLARE
    starts uuid := (lpad(to_hex((extract(epoch FROM day::timestamp AT TIME ZONE 'UTC')
                                 * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;
    ends uuid := (lpad(to_hex((extract(epoch FROM (day + 1)::timestamp AT TIME ZONE 'UTC')
                               * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;
    name text := 'webhooks_attempt_' || to_char(day, 'YYYYMMDD');
BEGIN
    -- First without a lock, because nearly always there is nothing to do.
    FOR turn IN 1..2 LOOP
        IF EXISTS (SELECT FROM webhooks_attempt_partitions() p
                    WHERE p.first_id < ends AND p.end_id > starts) THEN
            RETURN false;
        END IF;
        IF turn = 1 THEN
            LOCK TABLE ONLY webhooks_attempt IN SHARE UPDATE EXCLUSIVE MODE;
            LOCK TABLE webhooks_attempt_other IN ACCESS EXCLUSIVE MODE;
        END IF;
    END LOOP;
    IF (SELECT count(*) FROM (SELECT FROM webhooks_attempt_other o
                               WHERE o.delivery_id >= starts AND o.delivery_id < ends
                               LIMIT {most} + 1) AS early) > {most} THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE webhooks_attempt INCLUDING ALL, PRIMARY KEY (id))', name);
    EXECUTE format('WITH early AS (DELETE FROM webhooks_attempt_other o'
                   ' WHERE o.delivery_id >= %L AND o.delivery_id < %L RETURNING *)'
                   ' INSERT INTO %I SELECT * FROM early', starts, ends, name);
    EXECUTE format('ALTER TABLE webhooks_attempt ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                   name, starts, ends);
    RETURN true;
END $$
"""

# It deletes nothing but attempts without a delivery, so whoever may delete attempts may call it.
# The lock on the old partition lets reads go on, and settling but for its own few survivors; the
# whole table is locked for the exchange itself.
REPLACE_SQL = """
CREATE OR REPLACE FUNCTION webhooks_replace_attempt_partition(partition text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {schema}, pg_temp SET lock_timeout = '150ms'
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    old record;
    made text := left(partition, 50) || '_kept';
    kept integer;
BEGIN
    SELECT * INTO old FROM webhooks_attempt_partitions() p WHERE p.name = partition;
    IF NOT FOUND THEN
        DELETE FROM webhooks_expiringpartition e WHERE e.name = partition;
        RETURN 0;
    END IF;
    -- Purges that still leave attempts to this exchange end first.
    DELETE FROM webhooks_expiringpartition e WHERE e.name = partition;
    EXECUTE format('LOCK TABLE %I IN SHARE ROW EXCLUSIVE MODE', partition);
    EXECUTE format('CREATE TABLE %I (LIKE webhooks_attempt INCLUDING ALL, PRIMARY KEY (id))', made);
    EXECUTE format('INSERT INTO %I SELECT a.* FROM webhooks_delivery d JOIN %I a'
                   ' ON a.delivery_id = d.id WHERE d.id >= %L AND d.id < %L LIMIT {most} + 1',
                   made, partition, old.first_id, old.end_id);
    GET DIAGNOSTICS kept = ROW_COUNT;
    IF kept > {most} THEN
        RAISE EXCEPTION 'more than {most} attempts of % are to be kept', partition
              USING ERRCODE = 'program_limit_exceeded';
    END IF;
    EXECUTE format('ALTER TABLE webhooks_attempt DETACH PARTITION %I', partition);
    EXECUTE format('DROP TABLE %I', partition);
    IF kept = 0 THEN
        EXECUTE format('DROP TABLE %I', made);
    ELSE
        EXECUTE format('ALTER TABLE %I RENAME TO %I', made, partition);
        EXECUTE format('ALTER TABLE webhooks_attempt ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       partition, old.first_id, old.end_id);
    END IF;
    RETURN kept;
END $$
"""
MOST = 20_000

DROP_FUNCTIONS = [
    "DROP FUNCTION IF EXISTS webhooks_replace_attempt_partition(text)",
    "DROP FUNCTION IF EXISTS webhooks_make_attempt_partition(date)",
    "DROP FUNCTION IF EXISTS webhooks_attempt_partitions()",
]

IS_PARTITIONED_SQL = "SELECT relkind = 'p' FROM pg_class WHERE oid = 'webhooks_attempt'::regclass"
LOCK_SQL = """
SET LOCAL lock_timeout = '150ms';
LOCK TABLE webhooks_attempt IN ACCESS EXCLUSIVE MODE
"""

# The end of the first partition. A row beyond it would be refused until the exchange, so it lies days
# ahead, and beyond the ids of a process whose clock is ahead. One that a migration left behind, which
# was cut short, is used again while it is far enough ahead.
END_SQL = """
SELECT (lpad(to_hex((extract(epoch FROM date_trunc('day', moment, 'UTC') + interval '3 days')
                     * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
  FROM (SELECT greatest(
            clock_timestamp(),
            (SELECT to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint
                                 / 1000.0)
               FROM ((SELECT id FROM webhooks_delivery ORDER BY id DESC LIMIT 1)
                      UNION ALL
                     (SELECT delivery_id FROM webhooks_attempt ORDER BY delivery_id DESC LIMIT 1)
                      ORDER BY id DESC LIMIT 1) AS last)) AS moment) AS latest
"""
FOUND_SQL = """
SELECT convalidated, substring(pg_get_constraintdef(oid) FROM '''([^'']+)''::uuid')
  FROM pg_constraint
 WHERE conname = 'attempt_of_before' AND conrelid = 'webhooks_attempt'::regclass
"""
SOON_SQL = """
SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp() + interval '1 day') * 1000)::bigint),
             12, '0') || repeat('0', 20))
"""
DROP_END_SQL = "ALTER TABLE webhooks_attempt DROP CONSTRAINT IF EXISTS attempt_of_before"

GRANTS_SQL = """
DO $$
DECLARE
    one record;
BEGIN
    EXECUTE format('ALTER TABLE webhooks_attempt OWNER TO %I',
                   (SELECT pg_get_userbyid(relowner) FROM pg_class
                     WHERE oid = 'webhooks_attempt_before'::regclass));
    FOR one IN SELECT privilege_type, is_grantable,
                      CASE grantee WHEN 0 THEN 'PUBLIC'
                           ELSE quote_ident(pg_get_userbyid(grantee)) END AS role
                 FROM pg_class c, aclexplode(c.relacl)
                WHERE c.oid = 'webhooks_attempt_before'::regclass
    LOOP
        EXECUTE format('GRANT %s ON webhooks_attempt TO %s %s', one.privilege_type, one.role,
                       CASE WHEN one.is_grantable THEN 'WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END $$
"""

PARENT_SQL = """
ALTER TABLE webhooks_attempt RENAME TO webhooks_attempt_before;
ALTER TABLE webhooks_attempt_before RENAME CONSTRAINT attempt_number TO attempt_before_number;
ALTER TABLE webhooks_attempt_before RENAME CONSTRAINT webhooks_attempt_pkey TO attempt_before_pkey;
CREATE TABLE webhooks_attempt (
    LIKE webhooks_attempt_before INCLUDING ALL EXCLUDING INDEXES
) PARTITION BY RANGE (delivery_id);
ALTER TABLE webhooks_attempt DROP CONSTRAINT IF EXISTS attempt_of_before;
ALTER TABLE webhooks_attempt ADD CONSTRAINT attempt_number UNIQUE (delivery_id, number);
CREATE TABLE webhooks_attempt_other (LIKE webhooks_attempt INCLUDING ALL, PRIMARY KEY (id));
ALTER TABLE webhooks_attempt ATTACH PARTITION webhooks_attempt_other DEFAULT
"""
ATTACH_SQL = """
ALTER TABLE webhooks_attempt ATTACH PARTITION webhooks_attempt_before
    FOR VALUES FROM (MINVALUE) TO ('{end}');
ALTER TABLE webhooks_attempt_before DROP CONSTRAINT attempt_of_before
"""
# From yesterday on: the demo and clocks that are behind.
AHEAD_SQL = """
SELECT webhooks_make_attempt_partition((clock_timestamp() AT TIME ZONE 'UTC')::date + n)
  FROM generate_series(-1, 7) AS n
"""


def partition(apps, schema_editor):
    connection = schema_editor.connection
    with connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(current_schema())")
        names = {"schema": cursor.fetchone()[0], "most": MOST}
        for sql in (PARTITIONS_SQL, MAKE_SQL, REPLACE_SQL):
            cursor.execute(sql.format(**names))
        cursor.execute(IS_PARTITIONED_SQL)
        if not cursor.fetchone()[0]:
            cursor.execute("SELECT EXISTS (SELECT FROM webhooks_attempt)")
            end = _end_of_before(cursor) if cursor.fetchone()[0] else None
            _exchange(cursor, end)
        cursor.execute(AHEAD_SQL)


def _end_of_before(cursor):
    """Make sure of the end of what is stored, and return it. It reads the table, and locks nothing."""
    cursor.execute(FOUND_SQL)
    found = cursor.fetchone()
    cursor.execute(SOON_SQL)
    soon = cursor.fetchone()[0]
    if found and found[1].replace("-", "") < soon:
        found = None
    if found is None:
        with transaction.atomic():
            cursor.execute(LOCK_SQL)
            cursor.execute(DROP_END_SQL)
            cursor.execute(END_SQL)
            end = cursor.fetchone()[0]
            cursor.execute(
                "ALTER TABLE webhooks_attempt ADD CONSTRAINT attempt_of_before"
                f" CHECK (delivery_id < '{end}'::uuid) NOT VALID"
            )
        found = (False, str(end))
    if not found[0]:
        try:
            cursor.execute("ALTER TABLE webhooks_attempt VALIDATE CONSTRAINT attempt_of_before")
        except BaseException:
            # Left behind, it would one day refuse attempts.
            cursor.execute(DROP_END_SQL)
            raise
    return found[1]


def _exchange(cursor, end):
    with transaction.atomic():
        cursor.execute(LOCK_SQL)
        cursor.execute("SELECT EXISTS (SELECT FROM webhooks_attempt)")
        if cursor.fetchone()[0] and end is None:
            end = _end_under_lock(cursor)
        cursor.execute(PARENT_SQL)
        cursor.execute(GRANTS_SQL)
        if end is None:
            cursor.execute("DROP TABLE webhooks_attempt_before")
        else:
            cursor.execute(ATTACH_SQL.format(end=end))


def _end_under_lock(cursor):
    """The first attempts came just now: so few that looking at them takes no time."""
    cursor.execute(END_SQL)
    end = cursor.fetchone()[0]
    cursor.execute(
        "ALTER TABLE webhooks_attempt ADD CONSTRAINT attempt_of_before"
        f" CHECK (delivery_id < '{end}'::uuid)"
    )
    return end


BACK_SQL = """
CREATE TABLE webhooks_attempt_whole (LIKE webhooks_attempt INCLUDING ALL, PRIMARY KEY (id));
INSERT INTO webhooks_attempt_whole SELECT * FROM webhooks_attempt;
DROP TABLE webhooks_attempt;
ALTER TABLE webhooks_attempt_whole RENAME TO webhooks_attempt;
ALTER TABLE webhooks_attempt
    RENAME CONSTRAINT webhooks_attempt_whole_delivery_id_number_key TO attempt_number;
ALTER TABLE webhooks_attempt RENAME CONSTRAINT webhooks_attempt_whole_pkey TO webhooks_attempt_pkey
"""


def whole(apps, schema_editor):
    """Copy all attempts into one table again, while nobody uses it."""
    with transaction.atomic(), schema_editor.connection.cursor() as cursor:
        cursor.execute(BACK_SQL)
        for statement in DROP_FUNCTIONS:
            cursor.execute(statement)


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("webhooks", "0040_expiring_partitions")]

    operations = [migrations.RunPython(partition, whole)]
