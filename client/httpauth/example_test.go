package httpauth_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"

	"golang.org/x/oauth2"

	"tokend/client"
	"tokend/client/httpauth"
)

// An HTTP client whose requests to the profile's API_URL have its token.
func ExampleTransport() {
	api := &http.Client{Transport: &httpauth.Transport{Request: client.TokenRequest{Profile: "dev/api"}}}
	resp, err := api.Get(apiURL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)

	// It goes nowhere else.
	_, err = api.Get("https://elsewhere.example/")
	var refused *httpauth.OriginError
	fmt.Println(errors.As(err, &refused), refused)
	// Output:
	// 200 OK
	// true dev/api: its token may not be sent to "https://elsewhere.example", which is not in its API_URL
}

// An HTTP client whose every request has a token of the profile dev/network.
func ExampleTokenSource() {
	source := httpauth.TokenSource(context.Background(), &client.Client{}, client.TokenRequest{Profile: "dev/network"})
	api := &http.Client{
		Transport: &oauth2.Transport{Source: source},
		// The token is for this API, not for where it may redirect to.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := api.Get(apiURL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}
