package guard_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

// The Web API of a provider, in a process of its own.
func ExampleFollow() {
	const issuer, api = "https://keyholder.example:8443", "https://api.soap.example"
	follower, err := guard.Follow(context.Background(), guard.FollowConfig{
		Issuer:   issuer,
		ClientID: os.Getenv("RESOURCE_SERVER_ID"), // keyholder resourceserver add
		Secret:   os.Getenv("RESOURCE_SERVER_SECRET"),
		Grace:    10 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	g, err := guard.New(guard.Config{Issuer: issuer, Audience: api, Keys: guard.FetchKeys(issuer, nil), Follower: follower})
	if err != nil {
		log.Fatal(err)
	}
	permit := func(t keyholder.Token, _ keyholder.Proof) keyholder.Verdict {
		return keyholder.Verdict{Allowed: t.Subscription != "", Requirement: keyholder.W8, Reason: "the token names no subscription"}
	}
	http.Handle("GET /statuses", g.Middleware(permit, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, _ := guard.FromContext(r.Context())
		fmt.Fprintln(w, "the statuses of", t.Subscription)
	})))
	http.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if s := follower.State(); !s.Connected {
			http.Error(w, fmt.Sprintf("no feed of endings since %s: %v", s.Since, s.Failure), http.StatusServiceUnavailable)
		}
	})
	log.Fatal(http.ListenAndServeTLS(":443", "api.pem", "api.key", nil))
}
