// Verify a RemoteDevAI webhook. Needs nothing but the standard library.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const tolerance = 300 * time.Second

// Verify says whether body, the bytes as they came in, was signed with one of the secrets.
// While a secret is rotated give the old and the new one.
func Verify(secrets []string, headers http.Header, body []byte, now time.Time) bool {
	id, timestamp := headers.Get("webhook-id"), headers.Get("webhook-timestamp")
	seconds, err := strconv.ParseUint(timestamp, 10, 40)
	if id == "" || err != nil {
		return false
	}
	if age := now.Sub(time.Unix(int64(seconds), 0)); age > tolerance || age < -tolerance {
		return false
	}
	given := strings.Split(headers.Get("webhook-signature"), " ")
	for _, secret := range secrets {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil {
			continue
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + timestamp + "."))
		mac.Write(body)
		expected := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
		for _, one := range given {
			if hmac.Equal([]byte(one), []byte(expected)) {
				return true
			}
		}
	}
	return false
}

func main() {
	headers := http.Header{}
	headers.Set("webhook-id", os.Getenv("WEBHOOK_ID"))
	headers.Set("webhook-timestamp", os.Getenv("WEBHOOK_TIMESTAMP"))
	headers.Set("webhook-signature", os.Getenv("WEBHOOK_SIGNATURE"))
	now := time.Now()
	if seconds, err := strconv.ParseInt(os.Getenv("WEBHOOK_NOW"), 10, 64); err == nil {
		now = time.Unix(seconds, 0)
	}
	body, err := io.ReadAll(os.Stdin)
	if err != nil || !Verify(strings.Split(os.Getenv("WEBHOOK_SECRET"), " "), headers, body, now) {
		os.Exit(1)
	}
}
