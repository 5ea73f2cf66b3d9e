# Verify a RemoteDevAI webhook. Needs nothing but Perl 5.14 or newer.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256_base64);
use MIME::Base64 qw(decode_base64);

use constant TOLERANCE_SECONDS => 300;

# Compares in a time that does not depend on where two texts differ.
sub is_equal {
    my ($one, $other) = @_;
    return 0 if length $one != length $other;
    my $difference = 0;
    $difference |= ord(substr $one, $_, 1) ^ ord(substr $other, $_, 1) for 0 .. length($one) - 1;
    return $difference == 0;
}

# Says whether $body, the bytes as they came in, was signed with one of the secrets. Header names are
# in lower case. While a secret is rotated give the old and the new one.
sub verify {
    my ($secrets, $headers, $body, $now) = @_;
    my $id = $headers->{'webhook-id'} // '';
    my $timestamp = $headers->{'webhook-timestamp'} // '';
    return 0 if $id eq '' or $timestamp !~ /\A[0-9]{1,12}\z/;
    return 0 if abs($now - $timestamp) > TOLERANCE_SECONDS;
    for my $secret (@$secrets) {
        my $key = decode_base64($secret =~ s/\Awhsec_//r);
        my $digest = hmac_sha256_base64("$id.$timestamp.$body", $key);
        # Digest::SHA leaves the padding out.
        $digest .= '=' while length($digest) % 4;
        for my $given (split / /, $headers->{'webhook-signature'} // '') {
            return 1 if is_equal("v1,$digest", $given);
        }
    }
    return 0;
}

binmode STDIN;
my $is_valid = verify(
    [split / /, $ENV{WEBHOOK_SECRET}],
    {
        'webhook-id'        => $ENV{WEBHOOK_ID},
        'webhook-timestamp' => $ENV{WEBHOOK_TIMESTAMP},
        'webhook-signature' => $ENV{WEBHOOK_SIGNATURE},
    },
    do { local $/; <STDIN> } // '',
    $ENV{WEBHOOK_NOW} // time,
);
print STDERR "invalid\n" unless $is_valid;
exit($is_valid ? 0 : 1);
