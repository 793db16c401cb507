package keyholder_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// module is the path of this module; packages are named below it, the root
// package ".".
const module = "github.com/fds-keyholder/keyholder"

// anything stands for every import.
const anything = "*"

// imports says which packages of the project there may be and what each may
// import of the project (docs/architecture.md). Words decide, memory
// remembers, doors translate: doors never import each other, and public
// packages import nothing internal. A new package, or a new arrow, is a
// decision: it is made here first. Tests may import more.
var imports = map[string][]string{
	".": {},

	// Public.
	"guard":                {"."},
	"client":               {".", "guard"},
	"client/mqttpool":      {".", "client/internal/link"},
	"client/publisher":     {".", "client", "client/internal/link"},
	"client/internal/link": {"."}, // what those two share
	"conformance":          {"."},
	"keyholdertest":        {".", "client", "client/mqttpool", "guard", "internal/console", "internal/daemon", "internal/pki", "internal/visitor"},

	// Memory.
	"internal/store":           {"."},
	"internal/store/storetest": {"internal/store"}, // for tests only
	"internal/ledger":          {".", "internal/store"},
	"internal/mailbox":         {".", "internal/store", "internal/ledger"},
	"internal/facility":        {".", "internal/store", "internal/ledger"},
	"internal/keyfile":         {"."},
	"internal/pki":             {".", "internal/keyfile"},
	"internal/keyring":         {".", "internal/keyfile"},
	"internal/keyring/softhsm": {"internal/keyring"}, // for tests only

	// What calls the OpenID providers of owners.
	"internal/federation": {"."},

	// Doors. They know store by the type of its transaction only, so that an
	// item and what follows from it are one commit; console answers with the
	// problem documents of guard.
	"internal/authserver":      {".", "guard", "internal/federation", "internal/ledger", "internal/keyring", "internal/pki"},
	"internal/webapi":          {".", "guard", "internal/store", "internal/ledger", "internal/facility", "internal/mailbox"},
	"internal/webhook":         {".", "guard", "internal/keyfile", "internal/ledger", "internal/mailbox"},
	"internal/broker":          {".", "internal/store", "internal/ledger", "internal/mailbox", "internal/pki"},
	"internal/broker/external": {".", "internal/keyfile", "internal/ledger"},
	"internal/console":         {".", "guard", "internal/keyfile", "internal/ledger", "internal/pki", "internal/keyring", "internal/mailbox"},

	// Wiring, the binary, and what plays a user in the demo and in tests.
	"internal/daemon": {
		".", "guard", "internal/store", "internal/ledger", "internal/mailbox", "internal/facility", "internal/pki", "internal/keyring",
		"internal/authserver", "internal/webapi", "internal/webhook", "internal/broker", "internal/broker/external", "internal/console", "internal/keyfile",
	},
	"internal/visitor": {"."},
	"cmd/keyholder":    {".", "guard", "client", "client/mqttpool", "client/publisher", "conformance", "internal/broker/external", "internal/daemon", "internal/pki", "internal/keyring", "internal/console", "internal/visitor"},
	"bench":            {anything},
}

// doors are the protocol surfaces.
var doors = []string{"internal/authserver", "internal/webapi", "internal/webhook", "internal/broker", "internal/broker/external", "internal/console"}

// homes says where each foreign module that go.mod requires may be imported;
// {} means by tests only. cmd/keyholder has MQTT and JOSE because the demo
// publishes, attacks and forges tokens as a stranger would, with nothing of
// the doors.
var homes = map[string][]string{
	"github.com/luikyv/go-oidc":       {"internal/authserver"},
	"github.com/go-jose/go-jose/v4":   {"guard", "conformance", "internal/keyring", "internal/authserver", "cmd/keyholder"},
	"github.com/mochi-mqtt/server/v2": {"internal/broker"},
	"github.com/eclipse/paho.golang":  {"client/mqttpool", "client/publisher", "conformance", "cmd/keyholder"},
	"github.com/pressly/goose/v3":     {"internal/store"},
	"modernc.org/sqlite":              {"internal/store"},
	"golang.org/x/crypto":             {"internal/ledger"},
	"golang.org/x/oauth2":             {"client", "internal/webhook", "internal/federation"},
	"go.yaml.in/yaml/v3":              {"internal/daemon"},
	"github.com/coreos/go-oidc/v3":    {"internal/federation"},
	"github.com/go-webauthn/webauthn": {"internal/authserver"},
	"github.com/nats-io/nats.go":      {"internal/broker/external"},
	"github.com/nats-io/jwt/v2":       {"internal/broker/external"},
	"github.com/nats-io/nkeys":        {"internal/broker/external"},
	"golang.org/x/text":               {"internal/authserver"},
	"github.com/pquerna/otp":          {"internal/ledger"},
	"github.com/jackc/pgx/v5":         {"internal/store"},
	"github.com/ThalesGroup/crypto11": {"internal/keyring"},
	"github.com/miekg/pkcs11":         {"internal/keyring"},
	"github.com/google/go-cmp":        {},
	"github.com/rogpeppe/go-internal": {},
	"github.com/chromedp/cdproto":     {},
	"github.com/chromedp/chromedp":    {},
}

// The budgets of the design, and what may exceed them, with the reason.
const (
	maxFileLines   = 500
	maxFuncLines   = 80
	maxMethods     = 5 // of an interface
	maxImportDepth = 6 // arrows from a package down to the root package
)

var excused = map[string]string{
	// "internal/x/file.go" or "internal/x/file.go: name": "why it reads better as one"
}

// pkg is one package of the tree, without its tests.
type pkg struct {
	dir   string
	files []file
}

type file struct {
	name  string
	lines int
	*ast.File
}

// load parses every Go file of the module that is not a test.
func load(tree fs.FS, fset *token.FileSet) ([]pkg, error) {
	byDir := map[string]*pkg{}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		if d.IsDir() {
			if name != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "node_modules") {
				return fs.SkipDir
			}
			if _, err := fs.Stat(tree, path.Join(name, "go.mod")); err == nil && name != "." {
				return fs.SkipDir // a module of its own
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go") {
			return nil
		}
		src, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		if byDir[dir] == nil {
			byDir[dir] = &pkg{dir: dir}
		}
		byDir[dir].files = append(byDir[dir].files, file{name, strings.Count(string(src), "\n"), parsed})
		return nil
	})
	var out []pkg
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		out = append(out, *byDir[dir])
	}
	return out, err
}

// importFaults names every import that the tables do not plan.
func importFaults(p pkg) []string {
	allowed, planned := imports[p.dir]
	if !planned {
		return []string{fmt.Sprintf("%s: unplanned package", p.dir)}
	}
	var out []string
	for _, f := range p.files {
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				out = append(out, fmt.Sprintf("%s: %v", f.name, err))
				continue
			}
			local, isLocal := localName(name)
			first, _, _ := strings.Cut(name, "/")
			switch {
			case slices.Contains(allowed, anything):
			case isLocal && !slices.Contains(allowed, local):
				out = append(out, fmt.Sprintf("%s: unplanned import of %s", f.name, local))
			case isLocal || !strings.Contains(first, "."): // the standard library has no dot there
			case !slices.Contains(homes[moduleOf(name)], p.dir):
				out = append(out, fmt.Sprintf("%s: %s is no home of %s", f.name, p.dir, name))
			}
			if name == "C" || name == "unsafe" {
				out = append(out, fmt.Sprintf("%s: import of %s", f.name, name))
			}
		}
	}
	return out
}

// localName returns the name of a package of this module.
func localName(name string) (string, bool) {
	if name == module {
		return ".", true
	}
	return strings.CutPrefix(name, module+"/")
}

// moduleOf returns the module in homes that a package belongs to, or "".
func moduleOf(name string) string {
	for m := range homes {
		if name == m || strings.HasPrefix(name, m+"/") {
			return m
		}
	}
	return ""
}

// shapeFaults names init functions, oversize files, functions and interfaces.
func shapeFaults(p pkg, fset *token.FileSet, excused map[string]string) []string {
	var out []string
	fault := func(key, format string, args ...any) {
		if excused[key] == "" {
			out = append(out, key+": "+fmt.Sprintf(format, args...))
		}
	}
	for _, f := range p.files {
		if f.lines > maxFileLines {
			fault(f.name, "%d lines, more than %d", f.lines, maxFileLines)
		}
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			key := f.name + ": " + fn.Name.Name
			if fn.Name.Name == "init" && fn.Recv == nil {
				fault(key, "init function")
			}
			if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > maxFuncLines {
				fault(key, "%d lines, more than %d", n, maxFuncLines)
			}
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if i, ok := spec.Type.(*ast.InterfaceType); ok && i.Methods.NumFields() > maxMethods {
				fault(f.name+": "+spec.Name.Name, "an interface of %d methods, more than %d", i.Methods.NumFields(), maxMethods)
			}
			return true
		})
	}
	return out
}

// docFaults names exported identifiers without a comment, and packages that
// have not exactly one package comment.
func docFaults(p pkg) []string {
	var out []string
	var comments []string
	for _, f := range p.files {
		if f.Doc != nil {
			comments = append(comments, f.name)
		}
		for _, decl := range f.Decls {
			for _, name := range undocumented(decl) {
				out = append(out, fmt.Sprintf("%s: %s is exported without a comment", f.name, name))
			}
		}
	}
	if len(comments) != 1 {
		out = append(out, fmt.Sprintf("%s: %d package comments (%s), want one", p.dir, len(comments), strings.Join(comments, ", ")))
	}
	return out
}

// undocumented returns the exported names of a declaration that have neither
// a comment of their own nor one of their group.
func undocumented(decl ast.Decl) []string {
	var out []string
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || ast.IsExported(receiver(d))) {
			out = append(out, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && s.Doc == nil && (d.Doc == nil || d.Lparen.IsValid()) {
					out = append(out, s.Name.Name)
				}
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
						out = append(out, n.Name)
					}
				}
			}
		}
	}
	return out
}

// receiver returns the name of the type that a method belongs to.
func receiver(d *ast.FuncDecl) string {
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// Ensure that the tree keeps the rules of the design: planned packages and
// imports, one home for each foreign library, no init function, sizes, and a
// comment on everything exported.
func TestArchitecture(t *testing.T) {
	fset := token.NewFileSet()
	packages, err := load(os.DirFS("."), fset)
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) == 0 || packages[0].dir != "." {
		t.Fatal("the tree was not read")
	}
	for _, p := range packages {
		for _, fault := range slices.Concat(importFaults(p), shapeFaults(p, fset, excused), docFaults(p)) {
			t.Error(fault)
		}
		if d := depth(packages, p.dir); d > maxImportDepth {
			t.Errorf("%s: a chain of %d imports within the project, more than %d", p.dir, d, maxImportDepth)
		}
	}
}

// depth returns the length of the longest chain of imports that begins at a
// package and stays within the project.
func depth(packages []pkg, dir string) int {
	deepest := 0
	for _, p := range packages {
		if p.dir != dir {
			continue
		}
		for _, f := range p.files {
			for _, spec := range f.Imports {
				if local, ok := localName(strings.Trim(spec.Path.Value, `"`)); ok && local != dir {
					deepest = max(deepest, depth(packages, local)+1)
				}
			}
		}
	}
	return deepest
}

// Ensure that the table itself keeps the rules it is there for.
func TestImportTable(t *testing.T) {
	for p, allowed := range imports {
		for _, a := range allowed {
			if _, ok := imports[a]; !ok && a != anything {
				t.Errorf("%s may import %s, which is not planned", p, a)
			}
			if slices.Contains(doors, p) && slices.Contains(doors, a) {
				t.Errorf("the door %s may import the door %s", p, a)
			}
			public := !strings.HasPrefix(p, "internal/") && !strings.HasPrefix(p, "cmd/") && p != "keyholdertest" && p != "bench"
			if public && (strings.HasPrefix(a, "internal/") || a == anything) {
				t.Errorf("the public package %s may import %s", p, a)
			}
		}
	}
	for m, where := range homes {
		for _, p := range where {
			if _, ok := imports[p]; !ok || p == "." {
				t.Errorf("%s has a home in %s, which is not planned", m, p)
			}
		}
	}
	required, err := requirements("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if named := slices.Sorted(maps.Keys(homes)); !slices.Equal(required, named) {
		t.Errorf("go.mod requires %q, homes are planned for %q", required, named)
	}
	for key, reason := range excused {
		name, _, _ := strings.Cut(key, ": ")
		if _, err := os.Stat(name); err != nil || len(reason) < 20 {
			t.Errorf("excused %q for %q: there is no such file, or hardly a reason", key, reason)
		}
	}
}

// requirements returns the modules that a go.mod file requires directly.
func requirements(name string) ([]string, error) {
	data, err := os.ReadFile(name)
	var out []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(strings.TrimPrefix(line, "require "))
		if len(fields) == 2 && strings.HasPrefix(fields[1], "v") {
			out = append(out, fields[0])
		}
	}
	slices.Sort(out)
	return out, err
}

// Ensure that the rules find what they are to find, each by one small tree
// that breaks it.
func TestArchitectureFindsFaults(t *testing.T) {
	const doc = "// Package x is here.\npackage x\n\n"
	long := "func f() {\n" + strings.Repeat("\t_ = 0\n", maxFuncLines-2) + "}\n"
	for _, tt := range []struct {
		name, file, src, want string
	}{
		{"nothing", "guard/x.go", doc + `import _ "` + module + `"` + "\n", ""},
		{"subpackage of a foreign module at home", "internal/broker/x.go", doc + `import _ "github.com/mochi-mqtt/server/v2/packets"`, ""},
		{"unplanned package", "internal/utils/x.go", doc, "unplanned package"},
		{"unplanned import", "guard/x.go", doc + `import _ "` + module + `/internal/ledger"`, "unplanned import"},
		{"door to door", "internal/webapi/x.go", doc + `import _ "` + module + `/internal/broker"`, "unplanned import"},
		{"root imports the project", "x.go", doc + `import _ "` + module + `/guard"`, "unplanned import"},
		{"root imports a foreign module", "x.go", doc + `import _ "golang.org/x/crypto/argon2"`, "is no home"},
		{"second home", "internal/webapi/x.go", doc + `import _ "github.com/mochi-mqtt/server/v2"`, "is no home"},
		{"unknown module", "guard/x.go", doc + `import _ "example.org/y"`, "is no home"},
		{"module with a similar name", "internal/broker/x.go", doc + `import _ "github.com/mochi-mqtt/server/v22"`, "is no home"},
		{"library for tests only", "guard/x.go", doc + `import _ "github.com/google/go-cmp/cmp"`, "is no home"},
		{"unsafe", "guard/x.go", doc + `import _ "unsafe"`, "import of unsafe"},
		{"init", "guard/x.go", doc + "func init() {}\n", "init function"},
		{"method called init", "guard/x.go", doc + "type t int\n\nfunc (t) init() {}\n", ""},
		{"function of the greatest length", "guard/x.go", doc + long, ""},
		{"long function", "guard/x.go", doc + strings.Replace(long, "{\n", "{\n\t_ = 0\n", 1), "81 lines"},
		{"long file", "guard/x.go", doc + strings.Repeat("\n", maxFileLines), "more than 500"},
		{"interface of five", "guard/x.go", doc + "type i interface{ A(); B(); C(); D(); E() }\n", ""},
		{"interface of six", "guard/x.go", doc + "type i interface{ A(); B(); C(); D(); E(); F() }\n", "6 methods"},
		{"no package comment", "guard/x.go", "package x\n", "0 package comments"},
		{"function", "guard/x.go", doc + "func F() {}\n", "F is exported"},
		{"method", "guard/x.go", doc + "// T is.\ntype T[K any] int\n\nfunc (*T[K]) M() {}\n", "M is exported"},
		{"method of a hidden type", "guard/x.go", doc + "type t int\n\nfunc (t) String() string { return \"\" }\n", ""},
		{"type", "guard/x.go", doc + "type T int\n", "T is exported"},
		{"type in a group", "guard/x.go", doc + "// Types.\ntype (\n\tT int\n)\n", "T is exported"},
		{"constant", "guard/x.go", doc + "const C = 1\n", "C is exported"},
		{"constants with a comment for all", "guard/x.go", doc + "// The colours.\nconst (\n\tRed = 1\n\tBlue = 2\n)\n", ""},
		{"constant with a comment behind", "guard/x.go", doc + "const (\n\tRed = 1 // like a rose\n\tBlue = 2\n)\n", "Blue is exported"},
		{"variable", "guard/x.go", doc + "var V int\n", "V is exported"},
		{"test file", "guard/x_test.go", "package x\n\nfunc init() {}\n", ""},
		{"test data", "guard/testdata/x.go", "package x\n\nfunc init() {}\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fset := token.NewFileSet()
			packages, err := load(fstest.MapFS{tt.file: {Data: []byte(tt.src)}}, fset)
			if err != nil {
				t.Fatal(err)
			}
			var faults []string
			for _, p := range packages {
				faults = slices.Concat(faults, importFaults(p), shapeFaults(p, fset, nil), docFaults(p))
			}
			if tt.want == "" && len(faults) != 0 || tt.want != "" && (len(faults) != 1 || !strings.Contains(faults[0], tt.want)) {
				t.Errorf("got %q, want %q", faults, tt.want)
			}
		})
	}
	fset := token.NewFileSet()
	packages, err := load(fstest.MapFS{"guard/x.go": {Data: []byte(doc + "func init() {}\n")}}, fset)
	if err != nil {
		t.Fatal(err)
	}
	if faults := shapeFaults(packages[0], fset, map[string]string{"guard/x.go: init": "a reason"}); len(faults) != 0 {
		t.Errorf("excused all the same: %q", faults)
	}
}
