package authserver

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// recoverPath is the page on which a user sets a password that they have
// forgotten, with a code of the administrator.
const recoverPath = "/recover"

// routeRecover adds that page.
func (s *Server) routeRecover(mux *http.ServeMux) {
	mux.HandleFunc("GET "+recoverPath, offerLanguages(s.serveRecover))
	mux.HandleFunc("POST "+recoverPath, s.serveRecover)
}

// serveRecover serves the page and its form, which keeps nothing between the
// two but the cookie of the browser.
func (s *Server) serveRecover(w http.ResponseWriter, r *http.Request) {
	ex := &exchange{endpoint: endpointRecover}
	if r.Method == http.MethodPost && !s.readOwnForm(w, r, ex, "again.recover") {
		return
	}
	cookie := markBrowser(w, r)
	f := s.pages.frame(r, "")
	p := page{frame: f, Action: recoverPath, Token: recoverToken(cookie), Login: ex.form.Get("login")}
	if r.Method != http.MethodPost {
		s.pages.recover(w, http.StatusOK, &p)
		return
	}
	if subtle.ConstantTimeCompare([]byte(ex.form.Get("csrf")), []byte(p.Token)) != 1 {
		s.refusePage(w, r, ex, http.StatusForbidden, &message{Title: "stale.title", Text: "again.recover", Detail: "the form's secret is missing or of another browser"})
		return
	}
	device := deviceOf(r)
	err := s.ledger.Recover(r.Context(), digest(device), ex.form.Get("login"), ex.form.Get("code"), ex.form.Get("next"))
	switch {
	case err == nil:
		knowDevice(w, device)
		s.pages.message(w, r, ex, http.StatusOK, &message{Title: "recover.done.title", Text: "recover.done.text", Back: accountPath, BackText: "signin.title"})
	case !ledger.LockedUntil(err).IsZero():
		p.Until = ledger.LockedUntil(err)
		s.pages.locked(w, s.ledger.Now(), &p)
	case keyholder.CodeOf(err) == keyholder.Denied:
		p.Alert = f.Say(say("recover.wrong"))
		s.pages.recover(w, http.StatusForbidden, &p)
	case keyholder.CodeOf(err) == keyholder.Invalid:
		p.Alert = f.Say(say("account.password-rule"))
		s.pages.recover(w, http.StatusBadRequest, &p)
	default:
		ex.fault = err
		s.faultPage(w, r, ex)
	}
}

// recoverToken is the secret of the form: only a page of ours, shown to this
// browser, holds it.
func recoverToken(cookie string) string {
	mac := hmac.New(sha256.New, []byte(cookie))
	mac.Write([]byte("recover"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
