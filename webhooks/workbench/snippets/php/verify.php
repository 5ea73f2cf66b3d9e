<?php
// Verify a RemoteDevAI webhook. Needs nothing but PHP 8.
declare(strict_types=1);

const TOLERANCE_SECONDS = 300;

/**
 * Says whether $body, the bytes of php://input, was signed with one of the secrets. $headers has
 * lower-case names. While a secret is rotated give the old and the new one.
 */
function verify(array $secrets, array $headers, string $body, ?float $now = null): bool
{
    $id = $headers['webhook-id'] ?? '';
    $timestamp = $headers['webhook-timestamp'] ?? '';
    if ($id === '' || !preg_match('/\A[0-9]{1,12}\z/', $timestamp)) {
        return false;
    }
    if (abs(($now ?? microtime(true)) - (int) $timestamp) > TOLERANCE_SECONDS) {
        return false;
    }
    $given = explode(' ', $headers['webhook-signature'] ?? '');
    foreach ($secrets as $secret) {
        $key = base64_decode(preg_replace('/^whsec_/', '', $secret));
        $digest = hash_hmac('sha256', "$id.$timestamp.$body", $key, true);
        $expected = 'v1,' . base64_encode($digest);
        foreach ($given as $one) {
            if (hash_equals($expected, $one)) {
                return true;
            }
        }
    }
    return false;
}

if (PHP_SAPI === 'cli' && realpath($argv[0]) === __FILE__) {
    $now = getenv('WEBHOOK_NOW');
    $headers = [
        'webhook-id' => (string) getenv('WEBHOOK_ID'),
        'webhook-timestamp' => (string) getenv('WEBHOOK_TIMESTAMP'),
        'webhook-signature' => (string) getenv('WEBHOOK_SIGNATURE'),
    ];
    $body = stream_get_contents(STDIN);
    $secrets = explode(' ', (string) getenv('WEBHOOK_SECRET'));
    exit(verify($secrets, $headers, $body, $now === false ? null : (float) $now) ? 0 : 1);
}
