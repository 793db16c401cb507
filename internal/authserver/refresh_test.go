package authserver_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// Ensure that a refresh token is good once, and that using it again ends the
// whole family, the newest tokens included.
func TestRefreshReuse(t *testing.T) {
	b := open(t)
	first := b.tokens()
	second := b.refresh(first.text("refresh_token"))
	third := b.refresh(second.text("refresh_token"))
	if third.status != http.StatusOK {
		t.Fatalf("second refresh: %s", third.body)
	}
	refused(t, b.refresh(first.text("refresh_token")), http.StatusBadRequest, "invalid_grant")
	for name, r := range map[string]reply{"first": first, "second": second, "third": third} {
		if b.active(r.text("access_token")) {
			t.Errorf("the %s access token is still active", name)
		}
		refused(t, b.refresh(r.text("refresh_token")), http.StatusBadRequest, "invalid_grant")
	}
	if n := b.audited(keyholder.EventTokenReused); n != 1 {
		t.Errorf("%d audit rows of the reuse, want 1", n)
	}
	if n := b.audited(keyholder.EventGrantEnded); n != 1 {
		t.Errorf("%d audit rows of the end, want 1", n)
	}
	refused(t, b.refresh("khr_"+strings.Repeat("A", 43)), http.StatusBadRequest, "invalid_grant")
}

// Ensure that an unused refresh token ends by itself, and that each use
// begins its life anew.
func TestRefreshExpiry(t *testing.T) {
	b := open(t)
	token := b.tokens().text("refresh_token")
	for range 2 {
		b.pass(29 * 24 * time.Hour)
		r := b.refresh(token)
		if r.status != http.StatusOK {
			t.Fatalf("refresh within 30 days: %s", r.body)
		}
		token = r.text("refresh_token")
	}
	b.pass(31 * 24 * time.Hour)
	refused(t, b.refresh(token), http.StatusBadRequest, "invalid_grant")
}

// renewed checks the answer to a refresh and returns the refresh token in it.
func renewed(t *testing.T, r reply) string {
	t.Helper()
	if r.status != http.StatusOK || r.text("access_token") == "" || r.text("refresh_token") == "" {
		t.Fatalf("refresh: status %d, body %s", r.status, r.body)
	}
	return r.text("refresh_token")
}

// Ensure that a client whose answer was lost gets the same successor again for
// ten seconds, so that one refresh token is in force, and goes on with it.
func TestRefreshGrace(t *testing.T) {
	b := open(t)
	first := b.tokens().text("refresh_token")
	second := renewed(t, b.refresh(first))
	for range 2 {
		b.pass(4 * time.Second)
		if again := renewed(t, b.refresh(first)); again != second {
			t.Fatal("the repetition opened a second branch")
		}
	}
	third := renewed(t, b.refresh(second))
	if third == second {
		t.Error("the successor was not rotated")
	}
	if n := b.audited(keyholder.EventTokenReused); n != 0 {
		t.Errorf("%d audit rows of a reuse, want none", n)
	}
	if n := b.audited(keyholder.EventGrantRefreshed); n != 5 {
		t.Errorf("%d audit rows of a token, want 5", n)
	}
	// Now the client has shown that it has the second: the first is a theft,
	// though its ten seconds are not over.
	refused(t, b.refresh(first), http.StatusBadRequest, "invalid_grant")
	refused(t, b.refresh(third), http.StatusBadRequest, "invalid_grant")
}

// Ensure that grace is short, and for the client of the token only.
func TestRefreshGraceEnds(t *testing.T) {
	b := open(t)
	other := must(b.ledger.AddApp(t.Context(), "administrator", keyholder.App{Name: "Other", Grants: b.app.Grants,
		Authentication: keyholder.AuthSecret, RedirectURIs: []string{callback}}))
	otherSecret := must(b.ledger.AddSecret(t.Context(), "administrator", string(other.ID)))
	for name, again := range map[string]func(token string) reply{
		"late": func(token string) reply {
			b.pass(10*time.Second + time.Millisecond)
			return b.refresh(token)
		},
		"another client": func(token string) reply {
			return b.post(b.client(), "/token", values("grant_type", "refresh_token", "refresh_token", token,
				"client_id", string(other.ID), "client_secret", otherSecret))
		},
	} {
		t.Run(name, func(t *testing.T) {
			first := b.tokens().text("refresh_token")
			answer := b.refresh(first)
			second := renewed(t, answer)
			refused(t, again(first), http.StatusBadRequest, "invalid_grant")
			refused(t, b.refresh(second), http.StatusBadRequest, "invalid_grant")
			if b.active(answer.text("access_token")) {
				t.Error("the family outlived the reuse")
			}
		})
	}
	t.Run("not authenticated", func(t *testing.T) {
		first := b.tokens().text("refresh_token")
		second := renewed(t, b.refresh(first))
		form := values("grant_type", "refresh_token", "refresh_token", first, "client_id", string(b.app.ID), "client_secret", "khs_wrong")
		refused(t, b.post(b.client(), "/token", form), http.StatusUnauthorized, "invalid_client")
		renewed(t, b.refresh(second))
	})
	t.Run("after a revocation", func(t *testing.T) {
		first := b.tokens().text("refresh_token")
		second := renewed(t, b.refresh(first))
		if r := b.post(b.client(), "/revoke", b.asApp("token", second)); r.status != http.StatusOK {
			t.Fatal(r.body)
		}
		refused(t, b.refresh(first), http.StatusBadRequest, "invalid_grant")
	})
	t.Run("code replay after a refresh", func(t *testing.T) {
		code := b.code(b.app)
		second := renewed(t, b.refresh(b.redeem(code).text("refresh_token")))
		refused(t, b.redeem(code), http.StatusBadRequest, "invalid_grant")
		refused(t, b.refresh(second), http.StatusBadRequest, "invalid_grant")
	})
}

// Ensure that a client that authenticates by certificate keeps its refresh
// token (FAPI 2.0 5.3.2.1), that every use begins its life anew, that many at
// once disturb nothing, and that without the certificate it is worth nothing.
func TestCertificateKeepsRefreshToken(t *testing.T) {
	b := open(t)
	cert := b.certificate(keyholder.ForApp, string(b.certApp.ID))
	first := b.post(b.client(cert), "/token", with(redemption(b.code(b.certApp)), "client_id", string(b.certApp.ID)))
	token := renewed(t, first)
	form := values("grant_type", "refresh_token", "refresh_token", token, "client_id", string(b.certApp.ID))
	c := b.client(cert)
	for answers, n := atOnce(16, func() (*http.Response, error) { return c.PostForm(b.issuer+"/token", form) }), 16; n > 0; n-- {
		a := <-answers
		if got := renewed(t, read(t, a.resp, a.err)); got != token {
			t.Fatal("the refresh token was rotated")
		}
	}
	refused(t, b.post(b.client(), "/token", form), http.StatusUnauthorized, "invalid_client")
	refused(t, b.refresh(token), http.StatusBadRequest, "invalid_grant")
	for range 3 {
		b.pass(29 * 24 * time.Hour)
		cert = b.certificate(keyholder.ForApp, string(b.certApp.ID))
		if got := renewed(t, b.post(b.client(cert), "/token", form)); got != token {
			t.Fatal("the refresh token was rotated")
		}
	}
	b.pass(31 * 24 * time.Hour)
	cert = b.certificate(keyholder.ForApp, string(b.certApp.ID))
	refused(t, b.post(b.client(cert), "/token", form), http.StatusBadRequest, "invalid_grant")
	if n := b.audited(keyholder.EventTokenReused); n != 0 {
		t.Errorf("%d audit rows of a reuse, want none", n)
	}
}

// Ensure that an app whose workers refresh at once ends up with exactly one
// refresh token in force, which all of them have got, and that the old one
// then still gives away a thief.
func TestParallelRefresh(t *testing.T) {
	b := open(t)
	for _, n := range []int{32, 2, 2, 2, 2} {
		first := b.tokens().text("refresh_token")
		c := b.client()
		answers := atOnce(n, func() (*http.Response, error) {
			return c.PostForm(b.issuer+"/token", b.asApp("grant_type", "refresh_token", "refresh_token", first))
		})
		got := map[string]bool{}
		for range n {
			a := <-answers
			got[renewed(t, read(t, a.resp, a.err))] = true
		}
		if len(got) != 1 || got[first] {
			t.Fatalf("%d refresh tokens were handed out, want 1 new one", len(got))
		}
		for second := range got {
			third := renewed(t, b.refresh(second))
			b.pass(11 * time.Second)
			refused(t, b.refresh(first), http.StatusBadRequest, "invalid_grant")
			refused(t, b.refresh(third), http.StatusBadRequest, "invalid_grant")
		}
	}
}
