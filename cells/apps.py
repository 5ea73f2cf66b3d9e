from django.apps import AppConfig


class CellsConfig(AppConfig):
    name = "cells"
    verbose_name = "Cells"

    def ready(self) -> None:
        from cells.status import check_cells
        from webhooks.repair import doctor

        doctor.add_check(check_cells)
