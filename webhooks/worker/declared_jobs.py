"""Restrict the RQ jobs of a worker to functions that this project declares as jobs.

Anyone who can write to Valkey chooses the names of a job's function and callbacks. So a worker
imports a named module only if it belongs to an installed app or WEBHOOKS_JOB_MODULES lists it.
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
    """This function is not declared as a job."""


def find_declared(name: str) -> Callable[..., Any]:
    """Return the declared function with this dotted name.

    A function is declared if it has RQ's `@job` in a module of an installed app, or if its module is
    listed in WEBHOOKS_JOB_MODULES. Raises JobNotDeclaredError for any other, and ImportError if the
    module does not exist.
    """
    module_name, _, function_name = name.rpartition(".")
    is_listed = module_name in settings.WEBHOOKS_JOB_MODULES
    if is_listed or apps.get_containing_app_config(module_name):
        function = getattr(import_module(module_name), function_name, None)
        if _is_decorated(function) or (is_listed and _is_defined_in(module_name, function)):
            return function  # type: ignore[return-value]
    raise JobNotDeclaredError(
        f"{name} is not declared as a job: decorate it with django_rq's @job, or list its module "
        "in WEBHOOKS_JOB_MODULES"
    )


def _is_decorated(function: Any) -> bool:
    # RQ's decorator returns the function itself, with a wrapper of it as the attribute `enqueue`.
    enqueue = getattr(function, "enqueue", None)
    return function is not None and getattr(enqueue, "__wrapped__", None) is function


def _is_defined_in(module_name: str, function: Any) -> bool:
    return inspect.isroutine(function) and getattr(function, "__module__", None) == module_name


class _Declared:
    """A mixin for a job class that finds declared functions only."""

    @property
    def func(self: Any) -> Callable[..., Any]:
        if self.instance is not None:
            raise JobNotDeclaredError("The job calls a method, which cannot be declared as a job")
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
    """Return a subclass of an RQ job class that can call declared functions only."""
    return type("DeclaredJob", (_Declared, job_class), {})


def require_declared(job: Job) -> None:
    """Raise an error unless a worker may run this job; its class is from declared_class().

    Raises JobNotDeclaredError for undeclared functions and callbacks and for RQ's own webhooks, and
    ImportError for missing modules.
    """
    _ = job.func, job.success_callback, job.failure_callback, job.stopped_callback
    if job.webhooks:
        raise JobNotDeclaredError(
            "The job has RQ's own webhooks, which may call internal addresses"
        )
