package ledger_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Ensure that an app is after a restart what it was registered as.
func TestAppAfterRestart(t *testing.T) {
	b := open(t)
	var want []keyholder.App
	for _, app := range []keyholder.App{
		{Name: "Plain", Authentication: keyholder.AuthSecret, Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}},
		{Name: "Pushed", Authentication: keyholder.AuthCertificate, PushedOnly: true, Profile: keyholder.ProfileFAPI2,
			Pinned: keyholder.PinnedAuthority{PEM: "x", Subject: "dns:app.example"},
			Grants: []keyholder.GrantType{keyholder.GrantAuthorizationCode}, RedirectURIs: []string{"https://app.example/back"}},
	} {
		added, err := b.AddApp(t.Context(), ledger.Administrator, app)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, added)
	}
	b.close()
	b.open()
	for _, app := range want {
		if diff := cmp.Diff(app, b.App(app.ID), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", app.Name, diff)
		}
	}
}
