# Verify a RemoteDevAI webhook. Needs nothing but Ruby's standard library.
require "base64"
require "openssl"

TOLERANCE_SECONDS = 300

# Says whether `body`, the bytes as they came in, was signed with one of the secrets. `headers` has
# lower-case names. While a secret is rotated give the old and the new one.
def verify(secrets, headers, body, now = Time.now.to_f)
  id = headers["webhook-id"].to_s
  timestamp = headers["webhook-timestamp"].to_s
  return false if id.empty? || !timestamp.match?(/\A[0-9]{1,12}\z/)
  return false if (now - timestamp.to_i).abs > TOLERANCE_SECONDS

  content = "#{id}.#{timestamp}.".b + body.b
  given = headers["webhook-signature"].to_s.split(" ")
  secrets.any? do |secret|
    key = Base64.decode64(secret.delete_prefix("whsec_"))
    expected = "v1," + Base64.strict_encode64(OpenSSL::HMAC.digest("SHA256", key, content))
    given.any? do |one|
      one.bytesize == expected.bytesize && OpenSSL.fixed_length_secure_compare(one, expected)
    end
  end
end

if __FILE__ == $PROGRAM_NAME
  headers = {
    "webhook-id" => ENV["WEBHOOK_ID"],
    "webhook-timestamp" => ENV["WEBHOOK_TIMESTAMP"],
    "webhook-signature" => ENV["WEBHOOK_SIGNATURE"],
  }
  now = ENV.fetch("WEBHOOK_NOW", Time.now.to_f).to_f
  exit verify(ENV.fetch("WEBHOOK_SECRET").split(" "), headers, $stdin.binmode.read, now)
end
