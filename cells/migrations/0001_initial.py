from django.db import migrations

# Plain tables: a few rows each, which only the statements of this app read and write.
CREATE = """
CREATE TABLE cells_relay (
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    cursor text NOT NULL
);
COMMENT ON TABLE cells_relay IS 'Up to where the relay has published the feed of events.';

CREATE TABLE cells_slot (
    slot smallint PRIMARY KEY,
    position bigint NOT NULL,
    version bigint NOT NULL,
    is_active boolean NOT NULL
);
COMMENT ON TABLE cells_slot IS 'Up to which position of its stream this cell has stored a slot.';
COMMENT ON COLUMN cells_slot.version IS 'The revision of the map that gave the slot to this cell.';

CREATE TABLE cells_frozen (
    owner_id text PRIMARY KEY,
    slot smallint NOT NULL
);
COMMENT ON TABLE cells_frozen IS 'Users that are inactive only while their slot is moved.';

CREATE TABLE cells_map (
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    revision bigint NOT NULL,
    value jsonb NOT NULL
);
COMMENT ON TABLE cells_map IS 'The map as the consumer last read it, for the web processes.';
"""
DROP = "DROP TABLE cells_relay, cells_slot, cells_frozen, cells_map"


class Migration(migrations.Migration):
    initial = True
    dependencies = [("webhooks", "0037_proofs_due")]
    operations = [migrations.RunSQL(CREATE, DROP)]
