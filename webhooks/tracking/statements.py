"""The INSERT and UPDATE of tracked rows: Django's own, but they also return what they wrote.

One statement finds the rows, locks them, writes them and returns them as they were and as they
are: its condition and its values are evaluated once, on the same snapshot that Django's statement
would have used, and nobody can write in between. Must never write a row that it does not return.
"""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from tempfile import SpooledTemporaryFile
from typing import Any

import psycopg
from django.core.exceptions import EmptyResultSet, FullResultSet
from django.db import connections
from django.db.models import sql
from django.db.models.sql.compiler import SQLInsertCompiler, SQLUpdateCompiler

from webhooks.outbox.notes import POSITION
from webhooks.postgres.sql import run
from webhooks.tracking.writes import (
    ROWS_PER_BATCH,
    RowType,
    Write,
    announce,
    cast_of,
    row_type_of,
)

MOST_BYTES_IN_MEMORY = 4 * 1024**2
"""Of the rows that wait to be announced; more of them wait on disk."""

ROWS_PER_CHUNK = 200
"""That libpq hands over together."""

Row = tuple[Any, ...]


class InsertCompiler(SQLInsertCompiler):
    """An INSERT that returns the fields that Django asked for and then all of the row type's."""

    connection: Any
    using: str

    def insert(self, row_type: RowType, asked: Sequence[Any]) -> list[Row]:
        """Insert the rows and return what was inserted or updated, in the order of the objects."""
        self.row_type = row_type
        # Django's compiler writes no RETURNING for nothing.
        self.returning_fields = [*asked, row_type.fields[0]]
        rows: list[Row] = self._execute(asked).fetchall()
        converters = _converters(self, row_type, len(asked), len(row_type.all_fields))
        if asked:
            converters |= self.get_converters([f.get_col(f.model._meta.db_table) for f in asked])
        if not converters:
            return rows
        return [tuple(row) for row in self.apply_converters(rows, converters)]

    def _execute(self, asked: Sequence[Any]) -> Any:
        [(statement, parameters)] = self.as_sql()
        if self._is_plain and len(self.query.objs) == 1 and not any(map(cast_of, asked)):
            return run(statement, parameters, self.using, is_binary=False)
        cursor = self.connection.cursor()
        cursor.execute(statement, parameters)
        return cursor

    def assemble_as_sql(self, fields: Any, value_rows: Any) -> Any:
        """Find out whether all values are plain, so that the server can bind them."""
        placeholders, parameters = super().assemble_as_sql(fields, value_rows)
        self._is_plain = set(placeholders[0]) <= {"%s", "DEFAULT"}
        return placeholders, parameters

    def as_sql(self) -> list[tuple[str, Row]]:  # type: ignore[override]
        [(statement, parameters)] = super().as_sql()
        returned, _ = self.connection.ops.return_insert_columns(self.row_type.fields[:1])
        first = returned.removeprefix("RETURNING ")
        return [(statement.removesuffix(first) + ", ".join(self.row_type.columns), parameters)]


class AnnouncedUpdate(sql.UpdateQuery):
    """An UPDATE that announces what it changed, as part of its execution."""

    is_plain_save = False
    is_alone = False

    def get_compiler(
        self, using: str | None = None, connection: Any = None, elide_empty: bool = True
    ) -> Any:
        connection = connection or connections[using]  # type: ignore[index]
        return UpdateCompiler(self, connection, using, elide_empty)


class AnnouncedQuery(sql.Query):
    """A query whose update() is announced."""

    is_plain_save = False
    """One row by its key, no expressions: the same statement again and again, worth preparing."""
    is_alone = False
    """Nothing else is in the transaction, so that nothing need be remembered of many rows."""

    def chain(self, klass: Any = None) -> Any:
        return super().chain(AnnouncedUpdate if klass is sql.UpdateQuery else klass)


class UpdateCompiler(SQLUpdateCompiler):
    connection: Any
    query: Any
    using: str
    _is_set_up = False

    def pre_sql_setup(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Turn joins into a subquery of the condition; a second time would bring them back."""
        if not self._is_set_up:
            self._is_set_up = True
            super().pre_sql_setup(*args, **kwargs)

    def as_sql(self) -> tuple[str, Row]:  # type: ignore[override]
        """Compile Django's UPDATE, with its condition moved to where the old rows are read.

        Sorted by key twice: locks are taken and events are told in that order.
        """
        self.pre_sql_setup()
        if not self.query.values:
            return "", ()
        try:
            condition, condition_parameters = self.compile(self.query.where)
        except FullResultSet:
            condition, condition_parameters = "true", ()
        self.query.clear_where()
        update, update_parameters = super().as_sql()
        quote = self.connection.ops.quote_name
        meta = self.query.get_meta()
        key = f"{quote(meta.db_table)}.{quote(meta.pk.column)}"
        row_type = row_type_of(meta.model)
        own = row_type.columns[: len(row_type.fields)]
        # Names that no raw SQL in a value of the update can mean.
        old = ", ".join(f"old_row_{number}" for number in range(len(own)))
        statement = f"""
            WITH old_row (old_row_key, {old}) AS MATERIALIZED (
                SELECT {key}, {", ".join(own)} FROM {quote(meta.db_table)}
                 WHERE {condition} ORDER BY 1 FOR NO KEY UPDATE
            ), written AS (
                {update} FROM old_row WHERE {key} = old_row.old_row_key
                RETURNING old_row.*, {", ".join(row_type.columns)}
            )
            SELECT *, {POSITION} FROM written ORDER BY 1
        """  # noqa: S608 (Django's SQL)
        return statement, (*condition_parameters, *update_parameters)

    def execute_sql(self, result_type: Any) -> int:  # type: ignore[override]
        """Update and announce rows; returns how many."""
        try:
            statement, parameters = self.as_sql()
        except EmptyResultSet:
            return 0
        if not statement:
            return 0
        with _Rows() as rows:
            if self.query.is_plain_save:
                rows.extend(run(statement, parameters, self.using, is_binary=False).fetchall())
            else:
                self._stream(statement, parameters, rows)
            if rows.count:
                self._announce(rows)
            return rows.count

    def _stream(self, statement: str, parameters: Row, rows: "_Rows") -> None:
        cursor = _StreamingCursor(self.connection.create_cursor(), rows)
        with self.connection._prepare_cursor(cursor) as wrapper:
            wrapper.execute(statement, parameters)

    def _announce(self, rows: "_Rows") -> None:
        model = self.query.get_meta().model
        row_type = row_type_of(model)
        width = len(row_type.fields)
        converters = _converters(self, row_type, 1, width)
        converters |= _converters(self, row_type, 1 + width, len(row_type.all_fields))
        writes = (
            Write(row_type.row(values[1 + width :], self.using), row_type.state(values[1:]))
            for values in (self.apply_converters(rows, converters) if converters else rows)
        )
        announce(
            model,
            writes,
            self.using,
            position=rows.first()[-1],
            is_last_word=self.query.is_alone and rows.count > ROWS_PER_BATCH,
        )


def _converters(compiler: Any, row_type: RowType, start: int, count: int) -> dict[int, Any]:
    """Return what turns `count` fields of a row type, from column `start` on, into attributes."""
    if row_type.converters is None:
        columns = [field.get_col(field.model._meta.db_table) for field in row_type.all_fields]
        row_type.converters = compiler.get_converters(columns)
    return {start + i: found for i, found in row_type.converters.items() if i < count}


class _Rows:
    """Rows of a statement of any size: a batch in memory, the others in a temporary file."""

    def __init__(self) -> None:
        self.count = 0
        self._batch: list[Row] = []
        self._file = SpooledTemporaryFile(MOST_BYTES_IN_MEMORY)  # noqa: SIM115 (closed below)

    def __enter__(self) -> "_Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def extend(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if len(self._batch) == ROWS_PER_BATCH:
                pickle.dump(self._batch, self._file, pickle.HIGHEST_PROTOCOL)
                self._batch = []
            self._batch.append(row)
            self.count += 1

    def first(self) -> Row:
        return next(iter(self))

    def __iter__(self) -> Iterator[Row]:
        self._file.seek(0)
        for _ in range((self.count - 1) // ROWS_PER_BATCH):
            yield from pickle.load(self._file)  # noqa: S301 (what this process wrote)
        yield from self._batch


class _StreamingCursor:
    """A cursor whose execute() hands every row on as it comes: libpq would gather them all."""

    def __init__(self, cursor: Any, rows: _Rows) -> None:
        self._cursor = cursor
        self._rows = rows

    def execute(self, statement: str, parameters: Row | None = None) -> None:
        # Older versions of libpq know no chunks, only single rows.
        size = ROWS_PER_CHUNK if psycopg.capabilities.has_stream_chunked() else 1
        self._rows.extend(self._cursor.stream(statement, parameters, size=size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)
