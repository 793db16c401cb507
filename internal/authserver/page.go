package authserver

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/fds-keyholder/keyholder"
)

//go:embed page
var pageFiles embed.FS

// pages renders the pages for people. They use nothing of another site; the
// style stands in the page and is allowed by its hash. The only script is for
// passkeys, the only picture the QR code for an authenticator app.
type pages struct {
	templates *template.Template
	style     template.CSS
	styleHash string
	script    []byte
	host      string
}

// page is what the sign-in and consent pages show.
type page struct {
	App      string
	Owner    string
	User     string // login of who is signed in
	Login    string // as typed
	Action   string // address the form is sent to
	Token    string // secret of the form
	Alert    string
	Choices  []choice
	Passkeys bool              // whether a passkey can be used here
	Factors  keyholder.Factors // that the user has set up
	Redirect string            // CSP source of the app's address
	frame
}

// choice is one agreement the user may share.
type choice struct {
	ID       keyholder.AgreementID
	Provider string
	Purpose  string
	Until    string
}

// message is a page that only says something.
type message struct {
	Title  string
	Text   string
	Detail string // for those who help the user; holds nothing secret
}

// frame is what every page needs.
type frame struct {
	Style template.CSS
	Host  string
}

func newPages(issuer string) (*pages, error) {
	style, err := pageFiles.ReadFile("page/style.css")
	if err != nil {
		return nil, fmt.Errorf("read the pages' style: %w", err)
	}
	script, err := pageFiles.ReadFile("page/passkey.js")
	if err != nil {
		return nil, fmt.Errorf("read the pages' script: %w", err)
	}
	t, err := template.ParseFS(pageFiles, "page/*.html")
	if err != nil {
		return nil, fmt.Errorf("read the pages: %w", err)
	}
	hash := sha256.Sum256(style)
	return &pages{templates: t, style: template.CSS(style), styleHash: base64.StdEncoding.EncodeToString(hash[:]),
		script: script, host: issuer[len("https://"):]}, nil
}

func (p *pages) signIn(w http.ResponseWriter, status int, v *page) {
	v.frame = p.frame()
	p.write(w, status, "signin.html", policy{redirect: v.Redirect, script: v.Passkeys}, v)
}

func (p *pages) factor(w http.ResponseWriter, status int, v *page) {
	v.frame = p.frame()
	p.write(w, status, "factor.html", policy{redirect: v.Redirect, script: v.Passkeys}, v)
}

func (p *pages) enrol(w http.ResponseWriter, status int, v *page) {
	v.frame = p.frame()
	p.write(w, status, "enrol.html", policy{redirect: v.Redirect}, v)
}

func (p *pages) consent(w http.ResponseWriter, status int, v *page) {
	v.frame = p.frame()
	p.write(w, status, "consent.html", policy{redirect: v.Redirect}, v)
}

func (p *pages) message(w http.ResponseWriter, status int, m *message) {
	p.write(w, status, "message.html", policy{}, struct {
		*message
		frame
	}{m, p.frame()})
}

func (p *pages) frame() frame { return frame{p.style, p.host} }

// policy is what a page needs beyond what every page may.
type policy struct {
	redirect string // a further target of its form besides this server
	script   bool   // the script for passkeys, which talks to this server
	picture  bool   // that stands in the page
}

// with is the Content-Security-Policy of a page with that style.
func (y policy) with(styleHash string) string {
	s := "default-src 'none'; style-src 'sha256-" + styleHash + "'; form-action 'self' " + y.redirect + "; base-uri 'none'; frame-ancestors 'none'"
	if y.script {
		s += "; script-src 'self'; connect-src 'self'"
	}
	if y.picture {
		s += "; img-src data:"
	}
	return s
}

// write renders a page.
func (p *pages) write(w http.ResponseWriter, status int, name string, y policy, v any) {
	var b bytes.Buffer
	if err := p.templates.ExecuteTemplate(&b, name, v); err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", y.with(p.styleHash))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// untilText says when an agreement ends by itself.
func untilText(end time.Time) string {
	if end.IsZero() {
		return ""
	}
	return end.UTC().Format("2 January 2006, 15:04 UTC")
}
