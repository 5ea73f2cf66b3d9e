from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin

from projects.models import Project, User


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    list_display = ["username", "email", "name", "is_staff"]
    fieldsets = [
        *(DjangoUserAdmin.fieldsets or []),
        ("RemoteDevAI", {"fields": ["name", "storage_quota_bytes"]}),
    ]


@admin.register(Project)
class ProjectAdmin(admin.ModelAdmin):
    list_display = ["name", "owner", "archived", "created_at"]
    list_select_related = ["owner"]
    search_fields = ["name"]
    autocomplete_fields = ["owner"]
