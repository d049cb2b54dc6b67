package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"tokend/client"
	"tokend/client/api"
)

// The token of a profile, and what is known of it.
func ExampleClient_Token() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var c client.Client
	token, err := c.Token(ctx, client.TokenRequest{Profile: "dev/network"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(token.Type, token.Lifetime, token.Scopes)
	// Output: Bearer 1h0m0s [read write]
}

// A narrower token, which lives for a quarter of an hour at least.
func ExampleTokenRequest() {
	c := client.Client{Autostart: true}
	token, err := c.Token(context.Background(), client.TokenRequest{
		Profile:  "dev/network",
		Scopes:   []string{"read"},
		MinValid: 15 * time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(token.Scopes, token.ExpiresIn > 15*time.Minute)
	// Output: [read] true
}

// A request with the token in its header.
func ExampleToken_Header() {
	var c client.Client
	token, err := c.Token(context.Background(), client.TokenRequest{Profile: "dev/network"})
	if err != nil {
		log.Fatal(err)
	}
	req, err := http.NewRequest("GET", apiURL, nil)
	if err != nil {
		log.Fatal(err)
	}
	req.Header.Set("Authorization", token.Header())
	resp, err := http.DefaultTransport.RoundTrip(req) // which follows no redirects
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}

// A token that is always a living one, for a program that runs for long.
func ExampleClient_Watch() {
	var c client.Client
	for change, err := range c.Watch(context.Background(), client.TokenRequest{Profile: "dev/network"}) {
		switch {
		case err != nil:
			log.Fatal(err) // no change comes any more
		case change.Err != nil:
			fmt.Println(change.Err, change.TokenLives)
		default:
			fmt.Println(change.Token.Type, change.Token.Lifetime)
			return
		}
	}
	// Output: Bearer 1h0m0s
}

// What to do when an API refuses a token; httpauth.Transport does it all.
func ExampleClient_Report() {
	var c client.Client
	ctx := context.Background()
	token, err := c.Token(ctx, client.TokenRequest{Profile: "dev/network"})
	if err != nil {
		log.Fatal(err)
	}
	reported, err := c.Report(ctx, client.Refusal{
		Profile:     "dev/network",
		Fingerprint: token.Fingerprint,
		Status:      http.StatusForbidden,
		Challenges:  []string{`Bearer error="insufficient_scope", scope="admin"`},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reported.Outcome, reported.Code, reported.Scopes)
	// Output: KEPT insufficient_scope [admin]
}

// What to do about a failure is decided by its reason.
func ExampleError() {
	var c client.Client
	_, err := c.Token(context.Background(), client.TokenRequest{Profile: "dev/netwrok"})
	var failed *client.Error
	switch {
	case errors.Is(err, client.ErrNotRunning):
		fmt.Println("run: tokenctl daemon start")
	case errors.As(err, &failed) && failed.Reason == api.ReasonProfileNotFound:
		fmt.Printf("%v; did you mean %s?\n", failed, failed.Metadata["suggestion"])
	case err != nil:
		fmt.Println(err)
	}
	// Output: no such profile; did you mean dev/network?
}

// Any other call of the API.
func ExampleClient_Call() {
	var c client.Client
	status := &api.GetStatusResponse{}
	err := c.Call(context.Background(), api.MethodGetStatus, &api.GetStatusRequest{}, status)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(status.State, status.Version, status.Profiles)
	// Output: UNLOCKED v-test 1
}
