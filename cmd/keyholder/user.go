package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
)

func runUserAdd(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "user add", `
Registers a user of an owner and prints the ID. The user signs in once, when an
app is set up (FDS 2.6.5.1). With -subject they sign in at the owner's OpenID
provider, which calls them so. Without it and without -password-file a strong
password is drawn and printed on a second line, this one time.

example:
  $ keyholder user add -owner st-anna -login facility@st-anna
  d94f4d0a-1c8b-4b61-9f36-5a1e7c3b8d22
  k3vqh-p2xwd-7rmua-zzt4c`).server().reading()
	owner := f.need("owner", "`KEY`: key or ID of the owner")
	login := f.need("login", "`LOGIN`: what the user types to sign in")
	subject := f.value("subject", "`SUBJECT`: what the owner's OpenID provider calls the user (claim sub)")
	file := f.value("password-file", "`FILE`: file with the password, at least 12 bytes; - is standard input")
	if _, err := f.parse(args); err != nil {
		return err
	}
	var password string
	var drawn bool
	if *subject == "" || *file != "" {
		var err error
		if password, drawn, err = choosePassword(env, *file); err != nil {
			return err
		}
	}
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	u, err := c.AddUser(ctx, console.NewUser{Owner: *owner, Login: *login, Subject: *subject, Password: password})
	if err != nil {
		return err
	}
	return f.addedWithPassword(env, u, password, drawn)
}

func runUserBind(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "user bind", `
Settles who a user is at the OpenID provider of the owner, in place of an
earlier binding. Without -subject they are nobody there, and sign in here only.
All their sign-ins end; what they have shared goes on.

example:
  $ keyholder user bind -login facility@st-anna -subject 248289761001
  d94f4d0a-1c8b-4b61-9f36-5a1e7c3b8d22`).server().reading()
	login := f.need("login", "`LOGIN`: what the user types to sign in")
	subject := f.value("subject", "`SUBJECT`: what the provider calls the user (claim sub)")
	if _, err := f.parse(args); err != nil {
		return err
	}
	return ask(ctx, f, (*console.Client).BindUser, console.UserBinding{Login: *login, Subject: *subject},
		func(u console.User) string { return string(u.ID) })
}

// choosePassword reads a password from a file, or draws one if there is none.
func choosePassword(env *environment, file string) (password string, drawn bool, err error) {
	if file == "" {
		return drawPassword(), true, nil
	}
	password, err = readSecret(env, file)
	return password, false, err
}

// addedWithPassword prints a user, and the password if it was drawn here.
func (f *flags) addedWithPassword(env *environment, u console.User, password string, drawn bool) error {
	if !drawn {
		return f.added(string(u.ID), u)
	}
	fmt.Fprintln(env.stderr, "the password is shown this one time; it is not kept")
	if *f.json {
		return printJSON(env.stdout, struct {
			console.User
			Password string `json:"password"`
		}{u, password})
	}
	_, err := fmt.Fprintf(env.stdout, "%s\n%s\n", u.ID, password)
	return err
}

func runUserReset(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "user reset", `
Gives a user a new password and takes away the authenticator app, all passkeys
and all recovery codes, for somebody who has lost them. Make sure that it is
them who ask. All their sign-ins end; what they have shared goes on. They see
it on the account page. Without -password-file a strong password is drawn and
printed on a second line, this one time.

example:
  $ keyholder user reset -login facility@st-anna
  d94f4d0a-1c8b-4b61-9f36-5a1e7c3b8d22
  k3vqh-p2xwd-7rmua-zzt4c`).server().reading()
	login := f.need("login", "`LOGIN`: what the user types to sign in")
	file := f.value("password-file", "`FILE`: file with the new password, at least 12 bytes; - is standard input")
	if _, err := f.parse(args); err != nil {
		return err
	}
	password, drawn, err := choosePassword(env, *file)
	if err != nil {
		return err
	}
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	u, err := c.ResetUser(ctx, console.UserReset{Login: *login, Password: password})
	if err != nil {
		return err
	}
	return f.addedWithPassword(env, u, password, drawn)
}

func runUserRecover(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "user recover", `
Draws a code with which a user sets a new password on the page /recover of the
authorization server, and prints it this one time. It is good once, for an
hour; one that was drawn before it is not any more. Make sure that it is them
who ask. Second factors stay; "user reset" takes them away.

example:
  $ keyholder user recover -login facility@st-anna
  kf7q-x2mv-9d4z-tw3h`).server().reading()
	login := f.need("login", "`LOGIN`: what the user types to sign in")
	c, _, err := f.connect(args)
	if err != nil {
		return err
	}
	defer c.Close()
	r, err := c.RecoverUser(ctx, console.UserRecovery{Login: *login})
	if err != nil {
		return err
	}
	fmt.Fprintf(env.stderr, "the code is shown this one time; it is good until %s at %s\n", stamp(r.Expires), r.Page)
	return f.added(r.Code, r)
}

func runUserUnlock(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "user unlock", `
Ends the lock-out of a user after failed sign-ins, at the password and at the
second factors. Every lock-out also ends by itself, after fifteen minutes at
most.

example:
  $ keyholder user unlock -login facility@st-anna
  d94f4d0a-1c8b-4b61-9f36-5a1e7c3b8d22`).server().reading()
	login := f.need("login", "`LOGIN`: what the user types to sign in")
	if _, err := f.parse(args); err != nil {
		return err
	}
	return ask(ctx, f, (*console.Client).UnlockUser, console.UserUnlock{Login: *login},
		func(u console.User) string { return string(u.ID) })
}

// userStateCommand makes the commands that disable and enable a user.
func userStateCommand(verb string, disabled bool) func(context.Context, *environment, []string) error {
	does := map[bool]string{true: `
Keeps a user from signing in and ends their sign-ins. What they have shared
goes on; to end it, cut the consent.`, false: `
Lets a disabled user sign in again.`}[disabled]
	return func(ctx context.Context, env *environment, args []string) error {
		f := newFlags(env, "user "+verb, does+`

example:
  $ keyholder user `+verb+` -login facility@st-anna
  d94f4d0a-1c8b-4b61-9f36-5a1e7c3b8d22`).server().reading()
		login := f.need("login", "`LOGIN`: what the user types to sign in")
		if _, err := f.parse(args); err != nil {
			return err
		}
		return ask(ctx, f, (*console.Client).SetUserState, console.UserState{Login: *login, Disabled: disabled},
			func(u console.User) string { return string(u.ID) })
	}
}

// drawPassword draws 100 bits, in letters and digits that are not mistaken
// for each other.
func drawPassword() string {
	s := strings.ToLower(rand.Text())
	return s[0:5] + "-" + s[5:10] + "-" + s[10:15] + "-" + s[15:20]
}

func users() noun[console.User] {
	return noun[console.User]{
		name: "user", plural: "users", key: "ID",
		list: (*console.Client).Users, show: (*console.Client).User,
		columns: []column[console.User]{
			{title: "id", text: func(u console.User, _ time.Time) string { return string(u.ID) }},
			{title: "owner", text: func(u console.User, _ time.Time) string { return u.OwnerKey }},
			{title: "login", text: func(u console.User, _ time.Time) string { return u.Login }},
			{title: "second factors", text: func(u console.User, _ time.Time) string { return factorsInWords(u.Factors) }},
			{title: "state", text: func(u console.User, _ time.Time) string { return userState(u) }},
			{title: "at the owner's provider", text: func(u console.User, _ time.Time) string { return cmp.Or(u.Subject, "-") }, wide: true},
			{title: "password replaced", text: func(u console.User, _ time.Time) string { return stamp(u.Renewed) }, wide: true},
			{title: "added", text: func(u console.User, _ time.Time) string { return stamp(u.Created) }, wide: true},
		},
		example: `  ID                                    OWNER    LOGIN             SECOND FACTORS  STATE
  d94f4d0a-1c8b-4b61-9f36-5a1e7c3b8d22  st-anna  facility@st-anna  1 passkey       may sign in`,
	}
}

func factorsInWords(f keyholder.Factors) string {
	var words []string
	if !f.TOTP.IsZero() {
		words = append(words, "app")
	}
	switch {
	case f.Passkeys == 1:
		words = append(words, "1 passkey")
	case f.Passkeys > 1:
		words = append(words, fmt.Sprintf("%d passkeys", f.Passkeys))
	}
	return joined(words, "none")
}

func userState(u console.User) string {
	if u.Disabled.IsZero() {
		return "may sign in"
	}
	return "disabled " + stamp(u.Disabled)
}
