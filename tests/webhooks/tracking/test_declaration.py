"""Declarations that do not fit their models. What good ones announce: tests/host_project."""

from typing import Any

import pytest
from django.db import models
from django.test.utils import isolate_apps

from projects.models import Project, User
from webhooks.tracking import TrackedModel, checks, declaration, tracked
from webhooks.tracking.writes import tracking_of


@pytest.fixture(autouse=True)
def no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declaration, "_declarations", [])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"fields": ["titel"]}, "it has no column 'titel'"),
        ({"fields": ["photo"]}, "'photo' is a BinaryField, which has no JSON form here"),
        ({"events": ["made"]}, "there is no event 'made'; there are created, updated, deleted"),
        (
            {"transitions": {"paid": ("paid", True)}},
            "the transition 'paid' is of 'paid', which is no",
        ),
        ({"fields": ["title_text", "titleText"]}, "2 of its columns would be sent as 'titleText'"),
        ({"owner": "reader"}, "the owner 'reader' is named by 'email', not by its key"),
        ({"owner": "title"}, "the owner 'title' is no foreign key of projects.Page"),
        ({"owner": "nobody"}, "the owner 'nobody' is no foreign key of projects.Page"),
        ({"owner": "project"}, "leads to projects.Project, and owners are projects.User"),
        ({"owner": "pk"}, "leads to projects.Page, and owners are projects.User"),
        ({"owner": "project__owner__id"}, "is more than one relation away"),
    ],
)
@isolate_apps("projects")
def test_e016_says_what_does_not_fit(options: dict[str, Any], problem: str) -> None:
    class Page(TrackedModel):
        title = models.CharField(max_length=10)
        title_text = models.TextField()
        titleText = models.TextField()
        photo = models.BinaryField()
        reader = models.ForeignKey(
            User, on_delete=models.CASCADE, to_field="email", related_name="+"
        )
        author = models.ForeignKey(User, on_delete=models.CASCADE)
        project = models.ForeignKey(Project, on_delete=models.CASCADE)

        class Meta:
            app_label = "projects"

        def __str__(self) -> str:
            return self.title

    tracked(**{"owner": "author", "fields": ["title"], **options})(Page)

    (error,) = checks.check_declarations(None)
    assert error.id == "webhooks.E016"
    assert problem in error.msg
    assert tracking_of(Page) is None


@isolate_apps("projects")
def test_a_model_that_cannot_be_adopted_is_named() -> None:
    class Base(models.Model):
        class Meta:
            app_label = "projects"
            abstract = True

    class Page(Base):
        class Meta:
            app_label = "projects"

        def __str__(self) -> str:
            return "page"

    tracked(owner=None, fields=[])(Page)

    (error,) = checks.check_declarations(None)
    assert "derives from more than models.Model" in error.msg
