"""The undocumented methods of Django, RQ and OpenTelemetry that we override: a release that changes one says so here.

Each override relies on when its base class calls it and with what. When one of these tests fails,
read the new release's method, adapt ours, and then the parameters here.
"""

import inspect

import pytest
from django.db.models import Model, QuerySet
from django.db.models.sql import Query
from django.db.models.sql.compiler import SQLInsertCompiler, SQLUpdateCompiler
from opentelemetry.sdk._shared_internal import BatchProcessor
from rq.queue import Queue
from rq.worker import SimpleWorker

HOOKS = [
    (Model, "save_base", "raw force_insert force_update using update_fields"),
    (Model, "_save_table", "raw cls force_insert force_update using update_fields"),
    (Model, "_do_update", "base_qs using pk_val values update_fields forced_update"),
    (QuerySet, "_update", "values"),
    (
        QuerySet,
        "_insert",
        "objs fields returning_fields raw using on_conflict update_fields unique_fields",
    ),
    (
        QuerySet,
        "bulk_create",
        "objs batch_size ignore_conflicts update_conflicts update_fields unique_fields",
    ),
    (QuerySet, "bulk_update", "objs fields batch_size"),
    (Query, "chain", "klass"),
    (Query, "get_compiler", "using connection elide_empty"),
    (SQLInsertCompiler, "assemble_as_sql", "fields value_rows"),
    (SQLInsertCompiler, "as_sql", ""),
    (SQLUpdateCompiler, "pre_sql_setup", ""),
    (SQLUpdateCompiler, "as_sql", ""),
    (SQLUpdateCompiler, "execute_sql", "result_type"),
    (SimpleWorker, "_set_connection", "connection"),
    (SimpleWorker, "_set_ip_address", "connection"),
    (SimpleWorker, "_install_signal_handlers", ""),
    (SimpleWorker, "dequeue_job_and_maintain_ttl", "timeout max_idle_time"),
    (SimpleWorker, "heartbeat", "timeout pipeline"),
    (SimpleWorker, "perform_job", "job queue execution"),
    (SimpleWorker, "_finalize_success", "job queue execution return_value"),
    (SimpleWorker, "_finalize_failure", "job queue execution exc_info"),
    (SimpleWorker, "teardown", ""),
    (
        SimpleWorker,
        "work",
        "burst logging_level date_format log_format max_jobs max_idle_time with_scheduler "
        "dequeue_strategy",
    ),
    (SimpleWorker, "request_stop", "signum frame"),
    (
        Queue,
        "dequeue_any",
        "queues timeout connection job_class serializer death_penalty_class",
    ),
    (Queue, "lmove", "connection queue_key timeout"),
    (BatchProcessor, "shutdown", "timeout_millis"),
    (
        Queue,
        "_fetch_dequeued_job",
        "connection queue_key job_id job_class serializer death_penalty_class",
    ),
]


@pytest.mark.parametrize(
    ("owner", "name", "parameters"), HOOKS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_hook_still_takes_what_our_override_takes(owner: type, name: str, parameters: str) -> None:
    hook = getattr(owner, name, None)
    assert hook is not None, f"{owner.__module__}.{owner.__qualname__}.{name} is gone."

    found = [one for one in inspect.signature(hook).parameters if one != "self"]

    assert found == parameters.split(), (
        f"{owner.__module__}.{owner.__qualname__}.{name} has other parameters in this release; our "
        "override may not be called as it expects."
    )
