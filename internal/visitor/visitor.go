// Package visitor plays an owner's user at the sign-in and consent pages, over
// real HTTPS and without a shortcut: it follows redirects, keeps cookies, and
// fills in and sends the forms it is shown. The demo and the tests use it.
package visitor

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Visitor is a user with a browser of their own. It is not safe for
// concurrent use.
type Visitor struct {
	http *http.Client
	last *url.URL // address of the page that is shown
	page string
}

// errLeft ends the following of redirects when the browser is sent back to
// the app.
var errLeft = errors.New("sent back to the app")

// New returns a visitor who uses the transport, and who has left the pages
// when they are sent to the app's redirect URI.
func New(transport http.RoundTripper, redirectURI string) (*Visitor, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	v := &Visitor{http: &http.Client{Transport: transport, Jar: jar, Timeout: 20 * time.Second}}
	v.http.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), redirectURI+"?") {
			v.last = r.URL
			return errLeft
		}
		return nil
	}
	return v, nil
}

// SignIn opens the address the app sent the user to, signs in and shares the
// agreement that is offered. It returns the address with which the user comes
// back to the app.
func (v *Visitor) SignIn(ctx context.Context, address, login, password string) (*url.URL, error) {
	back, err := v.open(ctx, http.MethodGet, address, nil)
	if err != nil || back {
		return v.last, err
	}
	form, err := v.form()
	if err != nil {
		return nil, err
	}
	form.fields.Set("login", login)
	form.fields.Set("password", password)
	if back, err = v.send(ctx, form); err != nil || back {
		return v.last, err
	}
	if form, err = v.form(); err != nil {
		return nil, fmt.Errorf("consent page: %w", err)
	}
	if back, err = v.send(ctx, form); err != nil {
		return nil, err
	}
	if !back {
		return nil, errors.New("the consent page did not send the user back to the app")
	}
	return v.last, nil
}

func (v *Visitor) send(ctx context.Context, f form) (back bool, err error) {
	address, err := v.last.Parse(f.action)
	if err != nil {
		return false, fmt.Errorf("form action: %w", err)
	}
	return v.open(ctx, http.MethodPost, address.String(), f.fields)
}

func (v *Visitor) open(ctx context.Context, method, address string, fields url.Values) (back bool, err error) {
	r, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(fields.Encode()))
	if err != nil {
		return false, err
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", r.URL.Scheme+"://"+r.URL.Host)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	resp, err := v.http.Do(r)
	if errors.Is(err, errLeft) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return false, err
	}
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("the page answered %s: %s", resp.Status, text(page))
	}
	v.last, v.page = resp.Request.URL, string(page)
	return false, nil
}

var tag = regexp.MustCompile(`(?s)<style.*?</style>|<[^>]*>|\s+`)

// text is what a page says, without its markup.
func text(page []byte) string {
	s := strings.Join(strings.Fields(tag.ReplaceAllString(string(page), " ")), " ")
	return s[:min(len(s), 300)]
}

// form is the first form of a page with the fields a user would send as they
// stand: hidden ones, the first choice of a list, the first button.
type form struct {
	action string
	fields url.Values
}

var (
	formTag   = regexp.MustCompile(`(?s)<form\b([^>]*)>(.*?)</form>`)
	fieldTag  = regexp.MustCompile(`(?s)<(input|button)\b([^>]*)>`)
	attribute = regexp.MustCompile(`([a-z-]+)\s*=\s*"([^"]*)"`)
)

func (v *Visitor) form() (form, error) {
	m := formTag.FindStringSubmatch(v.page)
	if m == nil {
		return form{}, errors.New("the page has no form")
	}
	f := form{action: attributes(m[1])["action"], fields: url.Values{}}
	pressed := false
	for _, tag := range fieldTag.FindAllStringSubmatch(m[2], -1) {
		a := attributes(tag[2])
		switch {
		case a["name"] == "":
		case tag[1] == "button" || a["type"] == "submit":
			if !pressed {
				f.fields.Set(a["name"], a["value"])
			}
			pressed = true
		case a["type"] == "hidden", a["type"] == "radio" && !f.fields.Has(a["name"]):
			f.fields.Set(a["name"], a["value"])
		}
	}
	return f, nil
}

func attributes(tag string) map[string]string {
	out := map[string]string{}
	for _, m := range attribute.FindAllStringSubmatch(tag, -1) {
		out[m[1]] = html.UnescapeString(m[2])
	}
	return out
}
