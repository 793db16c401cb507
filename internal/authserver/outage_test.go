package authserver_test

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

// Ensure that apps which refresh while PostgreSQL stops, in order or by a
// crash, are told to try again and never that their grant is invalid, and that
// each goes on with what it has when the database is back.
func TestDatabaseOutage(t *testing.T) {
	server := storetest.StartServer(t)
	b := openOn(t, "127.0.0.1", storetest.At(storetest.NewDSN(t, server.URL)))
	tokens := make([]string, 6)
	for i := range tokens {
		tokens[i] = b.tokens().text("refresh_token")
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		var wg sync.WaitGroup
		busy := make(chan struct{}, 10_000)
		for i := range tokens {
			wg.Go(func() { tokens[i] = b.refreshUntilRefused(t, tokens[i], busy) })
		}
		for range 10 * len(tokens) {
			<-busy
		}
		server.Stop(signal)
		stopped := time.Now()
		wg.Wait()
		b.stop()
		server.Start()
		b.pass(-time.Since(stopped)) // an answer that was lost is given again for ten seconds
		b.start()
		for i, token := range tokens {
			r := b.refresh(token)
			if r.status != http.StatusOK {
				t.Fatalf("%s: app %d after the outage: status %d, body %s", signal, i, r.status, r.body)
			}
			tokens[i] = r.text("refresh_token")
		}
	}
}

// refreshUntilRefused refreshes until it is refused, which must be with 503,
// and returns the token that it holds then.
func (b *bench) refreshUntilRefused(t *testing.T, token string, busy chan<- struct{}) string {
	c := b.client()
	for {
		resp, err := c.PostForm(b.issuer+"/token", b.asApp("grant_type", "refresh_token", "refresh_token", token))
		if err != nil {
			t.Error(err)
			return token
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Error(err)
			return token
		}
		if resp.StatusCode != http.StatusOK {
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
				t.Errorf("in the outage: status %d, Retry-After %q, body %s", resp.StatusCode, resp.Header.Get("Retry-After"), body)
			}
			return token
		}
		var answer struct {
			Refresh string `json:"refresh_token"`
		}
		if err := json.Unmarshal(body, &answer); err != nil || answer.Refresh == "" {
			t.Errorf("no refresh token: %v", err)
			return token
		}
		token = answer.Refresh
		busy <- struct{}{}
	}
}
