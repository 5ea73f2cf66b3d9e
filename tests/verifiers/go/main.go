// Reads signed requests, one JSON object a line, and writes 1 or 0 for each: the library's verdict.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

type request struct {
	Secret  string
	Headers map[string]string
	Body    []byte
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var given request
		if err := json.Unmarshal(lines.Bytes(), &given); err != nil {
			panic(err)
		}
		headers := http.Header{}
		for name, value := range given.Headers {
			headers.Set(name, value)
		}
		library, err := standardwebhooks.NewWebhook(given.Secret)
		if err == nil {
			err = library.Verify(given.Body, headers)
		}
		if err == nil {
			fmt.Print("1")
		} else {
			fmt.Print("0")
		}
	}
}
