from django.db import migrations

# A frozen slot says it all (cells/slots.py, HELD_SQL).
DROP = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM cells_frozen) THEN
        RAISE 'A slot is being moved; finish the move with the release that began it.';
    END IF;
END $$;
DROP TABLE cells_frozen;
"""
CREATE = "CREATE TABLE cells_frozen (owner_id text PRIMARY KEY, slot smallint NOT NULL)"


class Migration(migrations.Migration):
    dependencies = [("cells", "0001_initial")]
    operations = [migrations.RunSQL(DROP, CREATE)]
