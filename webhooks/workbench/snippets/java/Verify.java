// Verify a RemoteDevAI webhook. Needs nothing but Java 11 or newer.

import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Instant;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class Verify {
    static final long TOLERANCE_SECONDS = 300;

    /**
     * Says whether the body, the bytes as they came in, was signed with one of the secrets. Header
     * names are in lower case. While a secret is rotated give the old and the new one.
     */
    static boolean verify(List<String> secrets, Map<String, String> headers, byte[] body, double now)
            throws GeneralSecurityException {
        String id = headers.getOrDefault("webhook-id", "");
        String timestamp = headers.getOrDefault("webhook-timestamp", "");
        if (id.isEmpty() || !timestamp.matches("[0-9]{1,12}")) return false;
        if (Math.abs(now - Long.parseLong(timestamp)) > TOLERANCE_SECONDS) return false;
        String[] given = headers.getOrDefault("webhook-signature", "").split(" ");
        for (String secret : secrets) {
            byte[] key = Base64.getDecoder().decode(secret.replaceFirst("^whsec_", ""));
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key, "HmacSHA256"));
            mac.update((id + "." + timestamp + ".").getBytes(StandardCharsets.UTF_8));
            String expected = "v1," + Base64.getEncoder().encodeToString(mac.doFinal(body));
            for (String one : given) {
                if (MessageDigest.isEqual(
                        expected.getBytes(StandardCharsets.UTF_8),
                        one.getBytes(StandardCharsets.UTF_8))) return true;
            }
        }
        return false;
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> environment = System.getenv();
        boolean isValid = verify(
                List.of(environment.get("WEBHOOK_SECRET").split(" ")),
                Map.of(
                        "webhook-id", environment.get("WEBHOOK_ID"),
                        "webhook-timestamp", environment.get("WEBHOOK_TIMESTAMP"),
                        "webhook-signature", environment.get("WEBHOOK_SIGNATURE")),
                System.in.readAllBytes(),
                environment.containsKey("WEBHOOK_NOW")
                        ? Double.parseDouble(environment.get("WEBHOOK_NOW"))
                        : Instant.now().getEpochSecond());
        if (!isValid) System.err.println("invalid");
        System.exit(isValid ? 0 : 1);
    }
}
