"""Compile Django's INSERT and UPDATE of tracked rows so that they also return the written rows.

One statement finds, locks and writes the rows, and returns their old and new values. Postgres
evaluates its condition and values once, on the same snapshot as for Django's statement, and no
other transaction can write in between. A statement must return every row that it writes.
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

MAX_BYTES_IN_MEMORY = 4 * 1024**2
"""The limit for rows that are not announced yet; above it they move to a temporary file."""

ROWS_PER_CHUNK = 200
"""How many rows libpq returns at a time."""

Row = tuple[Any, ...]


class InsertCompiler(SQLInsertCompiler):
    """An INSERT that returns the fields that Django requested, then all fields of the row type."""

    connection: Any
    using: str

    def insert(self, row_type: RowType, requested: Sequence[Any]) -> list[Row]:
        """Insert the objects; return the inserted or updated rows in the order of the objects.

        A row holds the values of the `requested` fields, then those of `row_type.all_fields`.
        """
        self.row_type = row_type
        # Without a field, Django's compiler leaves out RETURNING.
        self.returning_fields = [*requested, row_type.fields[0]]
        rows: list[Row] = self._execute(requested).fetchall()
        converters = _converters(self, row_type, len(requested), len(row_type.all_fields))
        if requested:
            columns = [field.get_col(field.model._meta.db_table) for field in requested]
            converters |= self.get_converters(columns)
        if not converters:
            return rows
        return [tuple(row) for row in self.apply_converters(rows, converters)]

    def _execute(self, requested: Sequence[Any]) -> Any:
        [(statement, parameters)] = self.as_sql()
        if self._is_plain and len(self.query.objs) == 1 and not any(map(cast_of, requested)):
            return run(statement, parameters, is_binary=False)
        cursor = self.connection.cursor()
        cursor.execute(statement, parameters)
        return cursor

    def assemble_as_sql(self, fields: Any, value_rows: Any) -> Any:
        """Note whether all values are plain parameters, which the server can bind."""
        placeholders, parameters = super().assemble_as_sql(fields, value_rows)
        self._is_plain = set(placeholders[0]) <= {"%s", "DEFAULT"}
        return placeholders, parameters

    def as_sql(self) -> list[tuple[str, Row]]:  # type: ignore[override]
        [(statement, parameters)] = super().as_sql()
        first = _column(self, self.row_type.fields[0])
        return [(statement.removesuffix(first) + ", ".join(self.row_type.columns), parameters)]


class AnnouncedUpdate(sql.UpdateQuery):
    """An UPDATE that announces its changes as part of its execution."""

    is_plain_save = False
    is_whole_transaction = False

    def get_compiler(
        self, using: str | None = None, connection: Any = None, elide_empty: bool = True
    ) -> Any:
        connection = connection or connections[using]  # type: ignore[index]
        return UpdateCompiler(self, connection, using, elide_empty)


class AnnouncedQuery(sql.Query):
    """A query whose update() announces its changes."""

    is_plain_save = False
    """Whether it updates one row by its key without expressions: a text that repeats, so that
    preparing it pays."""
    is_whole_transaction = False
    """Whether the transaction holds no other statement, so that the journal may skip its rows."""

    def chain(self, klass: Any = None) -> Any:
        return super().chain(AnnouncedUpdate if klass is sql.UpdateQuery else klass)


class UpdateCompiler(SQLUpdateCompiler):
    connection: Any
    query: Any
    using: str
    _is_set_up = False
    _requested: Sequence[Any] = ()
    """Fields whose new values execute_returning_sql() returns."""

    def pre_sql_setup(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Turn joins into a subquery of the condition, once: a second call would restore them."""
        if not self._is_set_up:
            self._is_set_up = True
            super().pre_sql_setup(*args, **kwargs)

    def as_sql(self) -> tuple[str, Row]:  # type: ignore[override]
        """Compile Django's UPDATE with its condition moved to the query of the old rows.

        Both queries sort by key: the first for the order of locks, the second for that of events.
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
        requested = [_column(self, field) for field in self._requested]
        # Raw SQL in the update's values must not resolve to these columns.
        old = ", ".join(f"old_row_{number}" for number in range(len(own)))
        statement = f"""
            WITH old_row (old_row_key, {old}) AS MATERIALIZED (
                SELECT {key}, {", ".join(own)} FROM {quote(meta.db_table)}
                 WHERE {condition} ORDER BY 1 FOR NO KEY UPDATE
            ), written AS (
                {update} FROM old_row WHERE {key} = old_row.old_row_key
                RETURNING old_row.*, {", ".join([*row_type.columns, *requested])}
            )
            SELECT *, {POSITION} FROM written ORDER BY 1
        """  # noqa: S608 (Django's SQL)
        return statement, (*condition_parameters, *update_parameters)

    def execute_sql(self, result_type: Any) -> int:  # type: ignore[override]
        """Update and announce the rows; return their number."""
        with _Rows() as rows:
            self._write(rows)
            return rows.count

    def execute_returning_sql(self, returning_fields: Sequence[Any] | None) -> list[Sequence[Any]]:
        """Update and announce the rows; return the new values of the fields, row by row.

        Django 6.0 and newer save so: the fields are generated ones, and those set to expressions.
        """
        self._requested = returning_fields or ()
        with _Rows() as rows:
            self._write(rows)
            # The position comes last.
            returned = [tuple(row[-1 - len(self._requested) : -1]) for row in rows]
        columns = [field.get_col(field.model._meta.db_table) for field in self._requested]
        converters = self.get_converters(columns)
        return [tuple(row) for row in self.apply_converters(returned, converters)]

    def _write(self, rows: "_Rows") -> None:
        try:
            statement, parameters = self.as_sql()
        except EmptyResultSet:
            return
        if not statement:
            return
        if self.query.is_plain_save and not self._requested:
            rows.extend(run(statement, parameters, is_binary=False).fetchall())
        else:
            self._stream(statement, parameters, rows)
        if rows.count:
            self._announce(rows)

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
            Write(row_type.row(values[1 + width :]), row_type.state(values[1:]))
            for values in (self.apply_converters(rows, converters) if converters else rows)
        )
        announce(
            model,
            writes,
            position=rows.first()[-1],
            is_final_write=self.query.is_whole_transaction and rows.count > ROWS_PER_BATCH,
        )


def _column(compiler: Any, field: Any) -> str:
    quote = compiler.connection.ops.quote_name
    return f"{quote(field.model._meta.db_table)}.{quote(field.column)}"


def _converters(compiler: Any, row_type: RowType, start: int, count: int) -> dict[int, Any]:
    """Return Django's converters for `count` fields of a row type, starting at column `start`."""
    if row_type.converters is None:
        columns = [field.get_col(field.model._meta.db_table) for field in row_type.all_fields]
        row_type.converters = compiler.get_converters(columns)
    return {start + i: converter for i, converter in row_type.converters.items() if i < count}


class _Rows:
    """The rows of a statement of any size: the last batch in memory, the others spooled."""

    def __init__(self) -> None:
        self.count = 0
        self._batch: list[Row] = []
        self._file = SpooledTemporaryFile(MAX_BYTES_IN_MEMORY)  # noqa: SIM115 (closed below)

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
            yield from pickle.load(self._file)  # noqa: S301 (this process wrote it)
        yield from self._batch


class _StreamingCursor:
    """A cursor whose execute() passes rows on as they arrive, so that libpq buffers few of them."""

    def __init__(self, cursor: Any, rows: _Rows) -> None:
        self._cursor = cursor
        self._rows = rows

    def execute(self, statement: str, parameters: Row | None = None) -> None:
        # Versions of libpq before 17 have no chunked mode, only single rows.
        size = ROWS_PER_CHUNK if psycopg.capabilities.has_stream_chunked() else 1
        self._rows.extend(self._cursor.stream(statement, parameters, size=size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)
