package authserver

import (
	"net/http"

	"github.com/fds-keyholder/keyholder"
)

// deviceCookie makes a browser known in which somebody has signed in: those
// who guess elsewhere do not lock it. It gives no right.
const deviceCookie = "__Host-keyholder-device"

// deviceOf returns what a browser is known by, or a new value for one that is
// not.
func deviceOf(r *http.Request) string {
	if c, err := r.Cookie(deviceCookie); err == nil && idForm.MatchString(c.Value) {
		return c.Value
	}
	return random("")(r.Context())
}

// knowDevice makes the browser show the value from now on. It is Lax, because
// who comes back from a provider elsewhere has to show it too.
func knowDevice(w http.ResponseWriter, value string) {
	http.SetCookie(w, &http.Cookie{Name: deviceCookie, Value: value, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteLaxMode, MaxAge: int(keyholder.BrowserMemory.Seconds())})
}
