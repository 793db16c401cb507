.PHONY: test check fuzz bench build build-hsm

GO ?= go
FUZZTIME ?= 10s

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/keyholder ./cmd/keyholder

# With keys in an HSM: its library is C, so this one needs gcc and the libc it was built with.
build-hsm:
	CGO_ENABLED=1 $(GO) build -trimpath -o bin/keyholder ./cmd/keyholder

# The tests. Those that need mosquitto, RabbitMQ, the module of nats-server, SoftHSM, Chromium, openssl, curl or npm run when it is there.
test:
	$(GO) test -race -timeout 20m ./...

check:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run gofmt'; exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	$(GO) test -race -timeout 20m ./...
	$(MAKE) fuzz

# Every fuzz target, for FUZZTIME each.
fuzz:
	@set -e; for file in $$(grep -rlE '^func Fuzz' --include='*_test.go' .); do \
		for target in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' $$file); do \
			echo "fuzz $$(dirname $$file) $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x ./$$(dirname $$file); \
		done; \
	done

bench:
	$(GO) test -run '^$$' -bench . -benchmem -timeout 2h ./bench/...
