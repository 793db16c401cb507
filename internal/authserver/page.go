package authserver

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/language"
	"golang.org/x/text/language/display"

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
	Alert    template.HTML
	Until    time.Time // when a locked user may try again
	Choices  []choice
	Passkeys bool              // whether a passkey can be used here
	Factors  keyholder.Factors // that the user has set up
	Redirect string            // CSP source of the app's address

	Organisations   []organisation // at whose providers a user may sign in
	AskOrganisation bool           // there are more
	frame
}

// choice is one agreement the user may share.
type choice struct {
	ID       keyholder.AgreementID
	Provider string
	Purpose  string
	Until    time.Time        // zero: open
	Kinds    []keyholder.Kind // to which the consent was narrowed; none: everything
	Narrowed bool             // the consent was, in kinds or in time
}

// Only returns the only agreement there is to choose, else the zero value.
func (p *page) Only() choice {
	if len(p.Choices) != 1 {
		return choice{}
	}
	return p.Choices[0]
}

// Kind writes what items of a kind are.
func (l lingo) Kind(k keyholder.Kind) template.HTML { return l.Say(say("kind." + string(k))) }

// InWords lists kinds of items.
func (l lingo) InWords(kinds []keyholder.Kind) template.HTML {
	words := make([]string, len(kinds))
	for i, k := range kinds {
		words[i] = string(l.Kind(k))
	}
	return template.HTML(strings.Join(words, ", "))
}

// message is a page that only says something.
type message struct {
	Title  string // key of the texts
	Text   string // key of the texts
	Detail string // for those who help the user; holds nothing secret

	Back     string // address of the page to go back to; empty: none
	BackText string // key of the texts
}

// frame is what every page needs.
type frame struct {
	lingo
	Style  template.CSS
	Host   string
	Others []language.Tag // in which the same address can be read too
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
	p.write(w, status, "signin.html", policy{redirect: v.Redirect, script: v.Passkeys}, v.frame, v)
}

func (p *pages) factor(w http.ResponseWriter, status int, v *page) {
	p.write(w, status, "factor.html", policy{redirect: v.Redirect, script: v.Passkeys}, v.frame, v)
}

func (p *pages) recover(w http.ResponseWriter, status int, v *page) {
	p.write(w, status, "recover.html", policy{}, v.frame, v)
}

func (p *pages) enrol(w http.ResponseWriter, status int, v *page) {
	p.write(w, status, "enrol.html", policy{redirect: v.Redirect}, v.frame, v)
}

func (p *pages) consent(w http.ResponseWriter, status int, v *page) {
	p.write(w, status, "consent.html", policy{redirect: v.Redirect}, v.frame, v)
}

// locked says until when a sign-in is locked, in whole minutes.
func (p *pages) locked(w http.ResponseWriter, now time.Time, v *page) {
	retryAfter(w, v.Until.Sub(now))
	v.Until = v.Until.Add(time.Minute)
	p.write(w, http.StatusTooManyRequests, "locked.html", policy{}, v.frame, v)
}

// retryAfter tells the browser when to come back.
func retryAfter(w http.ResponseWriter, wait time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(1+int(wait.Seconds())))
}

func (p *pages) message(w http.ResponseWriter, r *http.Request, ex *exchange, status int, m *message) {
	f := p.frame(r, ex.form.Get("ui_locales"))
	f.Others = nil // its address may be that of a request which must not be made again
	p.write(w, status, "message.html", policy{}, f, struct {
		*message
		frame
	}{m, f})
}

// frame returns the frame for a reader; uiLocales are the languages that an app
// asked for.
func (p *pages) frame(r *http.Request, uiLocales string) frame {
	l := languageOf(r, uiLocales)
	return frame{l, p.style, p.host, slices.Delete(slices.Clone(languages), int(l), int(l)+1)}
}

// Name is what a language calls itself.
func (frame) Name(t language.Tag) string { return display.Self.Name(t) }

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
func (p *pages) write(w http.ResponseWriter, status int, name string, y policy, f frame, v any) {
	var b bytes.Buffer
	if err := p.templates.ExecuteTemplate(&b, name, v); err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", f.Lang())
	h.Set("Content-Security-Policy", y.with(p.styleHash))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}
