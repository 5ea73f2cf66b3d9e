"""Models of other apps: which can be adopted. What their writes cause: tests/host_project."""

import pytest
from django.db import models
from django.test.utils import isolate_apps

from webhooks.tracking import TrackedModel, TrackedQuerySet, adopt


@isolate_apps("projects")
def test_an_adopted_model_writes_like_a_tracked_one() -> None:
    class NamedQuerySet(models.QuerySet["Team"]):
        def named(self) -> "NamedQuerySet":
            return self.filter(name__gt="")

    class Team(models.Model):
        name = models.CharField(max_length=10)
        objects = NamedQuerySet.as_manager()

        class Meta:
            app_label = "projects"

        def __str__(self) -> str:
            return self.name

    adopt(Team)

    assert issubclass(Team, TrackedModel)
    assert isinstance(Team.objects.named(), TrackedQuerySet)
    assert isinstance(Team._base_manager.get_queryset(), TrackedQuerySet)
    adopt(Team)  # again, it does nothing
    assert Team.__bases__ == (TrackedModel,)


@isolate_apps("projects")
def test_a_model_with_another_base_is_refused() -> None:
    class Base(models.Model):
        class Meta:
            app_label = "projects"
            abstract = True

    class Team(Base):
        class Meta:
            app_label = "projects"

        def __str__(self) -> str:
            return "team"

    with pytest.raises(TypeError, match="derives from more than"):
        adopt(Team)
