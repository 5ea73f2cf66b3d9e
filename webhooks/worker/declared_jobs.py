"""Which RQ jobs a worker runs: functions that this project declares as jobs, and no others.

Whoever can write to Valkey names a job's function and its callbacks. Nothing is imported because a
job names it: the name must lead into a module of an installed app, or into one that is listed in
WEBHOOKS_JOB_MODULES.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from rq.job import Job

from webhooks.errors import WebhooksError


class JobNotDeclaredError(WebhooksError):
    """This is not declared as a job."""


def find_declared(name: str) -> Callable[..., Any]:
    """Return the function with this dotted name.

    It carries RQ's `@job` in a module of an installed app, or is defined in a listed module. Raises
    JobNotDeclaredError for any other, ImportError where its module is not there.
    """
    module_name, _, function_name = name.rpartition(".")
    is_listed = module_name in settings.WEBHOOKS_JOB_MODULES
    if is_listed or apps.get_containing_app_config(module_name):
        function = getattr(import_module(module_name), function_name, None)
        if _is_decorated(function) or (is_listed and _is_defined_in(module_name, function)):
            return function  # type: ignore[return-value]
    raise JobNotDeclaredError(
        f"{name} is not declared as a job: give it django_rq's @job, or name its module in "
        "WEBHOOKS_JOB_MODULES"
    )


def _is_decorated(function: Any) -> bool:
    # RQ's decorator returns the function itself with a wrapper of it as an attribute.
    enqueue = getattr(function, "enqueue", None)
    return function is not None and getattr(enqueue, "__wrapped__", None) is function


def _is_defined_in(module_name: str, function: Any) -> bool:
    return inspect.isroutine(function) and getattr(function, "__module__", None) == module_name


class _Declared:
    """Mixed into a class of jobs: all that it can call is declared."""

    @property
    def func(self: Any) -> Callable[..., Any]:
        if self.instance is not None:
            raise JobNotDeclaredError("It calls a method, which is not declared as a job")
        return find_declared(self.func_name)

    @property
    def success_callback(self: Any) -> Callable[..., Any] | None:
        return _find_callback(self._success_callback_name)

    @property
    def failure_callback(self: Any) -> Callable[..., Any] | None:
        return _find_callback(self._failure_callback_name)

    @property
    def stopped_callback(self: Any) -> Callable[..., Any] | None:
        return _find_callback(self._stopped_callback_name)


def _find_callback(name: str | None) -> Callable[..., Any] | None:
    return None if name is None else find_declared(name)


def declared_class(job_class: type[Job]) -> type[Job]:
    """Return a class of jobs like this one which can call nothing that is not declared."""
    return type("DeclaredJob", (_Declared, job_class), {})


def require_declared(job: Job) -> None:
    """Raise, with the reason, unless a worker may run this job of a declared class."""
    _ = job.func, job.success_callback, job.failure_callback, job.stopped_callback
    if job.webhooks:
        raise JobNotDeclaredError("It has RQ's own webhooks, which may lead into our network")
