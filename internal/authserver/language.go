package authserver

import (
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/language"
)

// languages are those of the texts, in their order; the first is taken where
// none is wished for.
var languages = []language.Tag{language.English, language.German}

var matcher = language.NewMatcher(languages)

// languageCookie remembers what a reader has chosen on a page.
const languageCookie = "__Host-keyholder-language"

// paramLanguage is the parameter of a page's address by which its reader
// chooses a language.
const paramLanguage = "lang"

// lingo is a language of the pages: its place in languages.
type lingo int

// languageOf returns the language for a reader: the one they chose on a page,
// else the best that the app asked for (ui_locales, OpenID Connect Core
// 3.1.2.1), else the best that the browser asks for.
func languageOf(r *http.Request, uiLocales string) lingo {
	chosen := ""
	if c, err := r.Cookie(languageCookie); err == nil {
		chosen = c.Value
	}
	wishes := append([]string{chosen}, strings.Fields(uiLocales)...)
	_, i := language.MatchStrings(matcher, append(wishes, r.Header.Get("Accept-Language"))...)
	return lingo(i)
}

// offerLanguages serves pages that a reader can have in another language, by a
// link that needs no script.
func offerLanguages(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		wished := r.URL.Query().Get(paramLanguage)
		if r.Method != http.MethodGet || wished == "" {
			next(w, r)
			return
		}
		for _, t := range languages {
			if t.String() == wished {
				http.SetCookie(w, &http.Cookie{Name: languageCookie, Value: wished, Path: "/", Secure: true, HttpOnly: true,
					SameSite: http.SameSiteLaxMode, MaxAge: int((365 * 24 * time.Hour).Seconds())})
			}
		}
		// Of this server, whatever stands there: an address that begins with
		// two slashes would name another host.
		http.Redirect(w, r, "/"+strings.TrimLeft(r.URL.EscapedPath(), "/"), http.StatusSeeOther)
	}
}

// phrase is a sentence of the texts with the names it holds, before it is known
// in which language. The zero value says nothing.
type phrase struct {
	key  string
	args []any
}

func say(key string, args ...any) phrase { return phrase{key, args} }

// Lang is the language's tag, for the page's lang attribute.
func (l lingo) Lang() string { return languages[l].String() }

// T writes a sentence. Names are escaped, days and other phrases written in the
// language. Errors: a key that is not in the texts.
func (l lingo) T(key string, args ...any) (template.HTML, error) {
	text, ok := allTexts[key]
	if !ok {
		return "", fmt.Errorf("no text %q", key)
	}
	written := make([]any, len(args))
	for i, a := range args {
		switch a := a.(type) {
		case template.HTML:
			written[i] = string(a)
		case phrase:
			written[i] = string(l.Say(a))
		case time.Time:
			written[i] = string(l.Stamp(a))
		default:
			written[i] = template.HTMLEscapeString(fmt.Sprint(a))
		}
	}
	return template.HTML(fmt.Sprintf(text[l], written...)), nil
}

// Say writes a phrase.
func (l lingo) Say(p phrase) template.HTML {
	if p.key == "" {
		return ""
	}
	text, err := l.T(p.key, p.args...)
	if err != nil {
		return template.HTML(template.HTMLEscapeString(p.key)) // the test of the texts finds it
	}
	return text
}

// months are the names of the months.
var months = [2][12]string{
	{"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"},
	{"Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November", "Dezember"},
}

// Day writes a date.
func (l lingo) Day(t time.Time) template.HTML {
	t = t.UTC()
	return l.Say(say("day", strconv.Itoa(t.Day()), months[l][t.Month()-1], strconv.Itoa(t.Year())))
}

// Stamp writes a date and a time of day.
func (l lingo) Stamp(t time.Time) template.HTML {
	return l.Say(say("time", l.Day(t), t.UTC().Format("15:04")))
}
