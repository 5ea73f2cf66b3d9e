"""The routes of this app's API, to include where the project wants them."""

from rest_framework.routers import SimpleRouter

from webhooks.api.deliveries import DeliveryViewSet
from webhooks.api.event_types import EventTypeViewSet
from webhooks.api.events import EventViewSet
from webhooks.api.portal_links import PortalLinkViewSet
from webhooks.api.queue import QueueViewSet
from webhooks.api.redeliveries import RedeliveryViewSet
from webhooks.api.tokens import TokenViewSet
from webhooks.api.webhooks import WebhookViewSet

router = SimpleRouter(trailing_slash=False)
router.register("tokens", TokenViewSet, "token")
router.register("webhooks", WebhookViewSet, "webhook")
router.register("event-types", EventTypeViewSet, "event-type")
router.register("events", EventViewSet, "event")
router.register("deliveries", DeliveryViewSet, "delivery")
router.register("redeliveries", RedeliveryViewSet, "redelivery")
router.register("portal-links", PortalLinkViewSet, "portal-link")
router.register("queue", QueueViewSet, "queue")

urlpatterns = router.urls
