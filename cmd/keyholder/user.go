package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder/internal/console"
)

func runUserAdd(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "user add", `
Registers a user of an owner and prints the ID. The user signs in once, when an
app is set up (FDS 2.6.5.1). Without -password-file a strong password is drawn
and printed on a second line, this one time.

example:
  $ keyholder user add -owner st-anna -login facility@st-anna
  d94f4d0a-1c8b-4b61-9f36-5a1e7c3b8d22
  k3vqh-p2xwd-7rmua-zzt4c`).server().reading()
	owner := f.need("owner", "`KEY`: key or ID of the owner")
	login := f.need("login", "`LOGIN`: what the user types to sign in")
	file := f.value("password-file", "`FILE`: file with the password, at least 12 bytes; - is standard input")
	if _, err := f.parse(args); err != nil {
		return err
	}
	password, drawn := "", false
	if *file == "" {
		password, drawn = drawPassword(), true
	} else {
		var err error
		if password, err = readSecret(env, *file); err != nil {
			return err
		}
	}
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	u, err := c.AddUser(ctx, console.NewUser{Owner: *owner, Login: *login, Password: password})
	if err != nil {
		return err
	}
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
	_, err = fmt.Fprintf(env.stdout, "%s\n%s\n", u.ID, password)
	return err
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
			{title: "added", text: func(u console.User, _ time.Time) string { return stamp(u.Created) }, wide: true},
		},
		example: `  ID                                    OWNER    LOGIN
  d94f4d0a-1c8b-4b61-9f36-5a1e7c3b8d22  st-anna  facility@st-anna`,
	}
}
