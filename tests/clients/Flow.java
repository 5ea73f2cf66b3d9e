// One flow with the Java client that openapi-generator makes; tests/clients/test_clients.py runs it.

import java.util.List;
import java.util.Map;
import org.openapitools.client.ApiClient;
import org.openapitools.client.api.DeliveriesApi;
import org.openapitools.client.api.EventsApi;
import org.openapitools.client.api.WebhooksApi;
import org.openapitools.client.model.CreateWebhookInput;
import org.openapitools.client.model.Delivery;
import org.openapitools.client.model.Event;
import org.openapitools.client.model.NewEventInput;
import org.openapitools.client.model.StartedRedelivery;
import org.openapitools.client.model.WebhookChanges;
import org.openapitools.client.model.WebhookDetail;

public class Flow {
    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(what);
    }

    public static void main(String[] arguments) throws Exception {
        ApiClient client = new ApiClient();
        client.setBasePath(System.getenv("SERVER"));
        client.setBearerToken(System.getenv("TOKEN"));
        WebhooksApi webhooks = new WebhooksApi(client);
        DeliveriesApi deliveries = new DeliveriesApi(client);

        String id = webhooks.createWebhook(new CreateWebhookInput()
            .name("Orders").url("http://127.0.0.1:9/").events(List.of("project.*"))
            .retryDelay(7).timeout(3), null).getId();
        WebhookDetail changed = webhooks.updateWebhook(id, null, new WebhookChanges().name("Renamed"));
        check(changed.getName().equals("Renamed") && changed.getRetryDelay() == 7
            && changed.getTimeout() == 3, changed);
        Event event = new EventsApi(client).triggerEvent(new NewEventInput()
            .type("project.deleted").data(Map.of(
                "id", "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71", "name", "Website",
                "deletedAt", "2026-11-23T10:30:00.123Z")), null);
        // Without include this client refuses the null that stands for the attempts.
        List<Delivery> found = deliveries.listDeliveries(null, event.getId(), null, "attempts", null, null, null,
            null, null, null, null, null).getResults();
        check(found.size() == 1 && found.get(0).getWebhookId().equals(id), found);
        StartedRedelivery redelivery = deliveries.redeliverDelivery(found.get(0).getId(), null);
        check(redelivery.getMatchedCount() == 1, redelivery);
        check(webhooks.deleteWebhookWithHttpInfo(id, null).getStatusCode() == 204, id);
    }
}
