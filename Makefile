# The two commands a newcomer needs are `make dev` and `make test`; the others are what they are made of.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

MODULES  := pkg migrations services/registry services/credentials services/token services/audit cmd/agentidp sdk test deploy
# Outside of the workspace, so that what they need chooses no version for the others.
APART    := deploy/monitoring
SERVICES := registry credentials token audit
PACKAGES := $(addsuffix /...,$(addprefix ./,$(MODULES)))
BIN      := .bin
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
IMAGES   := $(SERVICES) bootstrap
# docker's names: linux/amd64, linux/arm64; empty for that of this machine
PLATFORM ?=
export GOFLAGS := -buildvcs=false

.PHONY: help dev test fault roll bench bench-audit build setup images sbom compose-up lint fmt tidy check-format check-tidy check-standalone openapi cover clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

dev: ## Run everything on this machine and print the operator's credential (ARGS="--port 9000")
	@go build -o $(BIN)/agentidp ./cmd/agentidp
	@exec $(BIN)/agentidp dev $(ARGS)

setup: ## Install what dev and test need and this machine lacks
	@go build -o $(BIN)/agentidp ./cmd/agentidp
	@$(BIN)/agentidp setup

test: setup ## Run every test with real Postgres, Redis and NATS, under the race detector, with coverage
	@./test/run

fault: setup ## Kill and freeze everything under load and balance the books (DURATION=30m SEED=7; a seed repeats its schedule)
	@go build -o $(BIN)/fault ./test/fault
	@exec $(BIN)/fault -duration $(or $(DURATION),2m) -seed $(or $(SEED),0) $(ARGS)

roll: setup ## Replace and scale every service under load behind a proxy: nothing may fail (DURATION=10m SEED=7 ARGS="-kill", which must)
	@go build -o $(BIN)/fault ./test/fault
	@exec $(BIN)/fault -roll -duration $(or $(DURATION),1m) -seed $(or $(SEED),0) $(ARGS)

bench: setup ## Measure speed against this machine's signing rate (ARGS="-quick", ARGS="-only token-rs256 -conns 32")
	@go build -o $(BIN)/bench ./test/bench
	@exec $(BIN)/bench $(ARGS)

bench-audit: setup ## Measure the audit service over ten million events (ARGS="-events 1000000 -days 30")
	@go build -o $(BIN)/bench-audit ./test/benchaudit
	@exec $(BIN)/bench-audit $(ARGS)

build: ## Build the five programs into .bin
	@go build -o $(BIN)/ ./cmd/agentidp $(foreach s,$(SERVICES),./services/$(s)/cmd/$(s))

images: ## Build the images agentidp/<service>:<version> (PLATFORM=linux/arm64: <version>-arm64)
	@for i in $(IMAGES); do \
	  tag=agentidp/$$i:$(VERSION)$(if $(PLATFORM),-$(notdir $(PLATFORM))); \
	  docker build -q $(if $(PLATFORM),--platform $(PLATFORM)) -f deploy/docker/Dockerfile -t $$tag \
	    --build-arg SERVICE=$$i --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) . >/dev/null; \
	  docker image inspect -f "$$tag {{.Os}}/{{.Architecture}} {{.Size}} bytes" $$tag; \
	  (( $$(docker image inspect -f '{{.Size}}' $$tag) <= 45 << 20 )) || { echo "$$tag is larger than 45 MiB"; exit 1; }; \
	done

# Built as deploy/docker/Dockerfile does, so that with the same release of Go the file has the hash of the program in the image.
sbom: ## Write what each program in the images is made of (CycloneDX) into .bin/sbom (PLATFORM=linux/arm64)
	@mkdir -p $(BIN)/sbom
	@go build -o $(BIN)/sbom/ ./deploy/sbom
	@for i in $(IMAGES); do \
	  dir=services/$$i; [[ -d $$dir ]] || dir=cmd/agentidp; \
	  (cd $$dir && GOWORK=off CGO_ENABLED=0 GOOS=linux GOARCH=$(or $(notdir $(PLATFORM)),$$(go env GOARCH)) go build -trimpath -tags nomsgpack \
	    -ldflags "-s -w -X github.com/sentryagent/agentidp/pkg/telemetry.version=$(VERSION)" -o $(CURDIR)/$(BIN)/sbom/$$i ./cmd/$$i); \
	  $(BIN)/sbom/sbom -version $(VERSION) $(BIN)/sbom/$$i >$(BIN)/sbom/$$i.cdx.json; \
	  rm $(BIN)/sbom/$$i; echo $(BIN)/sbom/$$i.cdx.json; \
	done

compose-up: ## Run everything in containers, with secrets made once (.env): http://localhost:8080
	@deploy/compose/secrets
	@AGENTIDP_VERSION=$(VERSION) AGENTIDP_REVISION=$(REVISION) docker compose up --build --detach --wait
	@echo "The operator's credential: . .agentidp-compose/operator.env"

fmt: ## Format the code
	@gofmt -w $(MODULES)

tidy: ## Tidy every module
	@for m in $(MODULES) $(APART) tools; do (cd $$m && GOWORK=off go mod tidy); done

lint: $(BIN)/golangci-lint ## Run the linters
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && $(CURDIR)/$(BIN)/golangci-lint run --config $(CURDIR)/.golangci.yml ./...); done
	@for m in $(APART); do echo "lint $$m"; (cd $$m && GOWORK=off $(CURDIR)/$(BIN)/golangci-lint run --config $(CURDIR)/.golangci.yml ./...); done

check-format: ## Fail on unformatted files
	@unformatted=$$(gofmt -l $(MODULES)); [[ -z $$unformatted ]] || { echo "not gofmt-ed:"; echo "$$unformatted"; exit 1; }

check-tidy: ## Fail where go.mod or go.sum is not tidy
	@for m in $(MODULES) $(APART) tools; do (cd $$m && GOWORK=off go mod tidy -diff) || { echo "$$m is not tidy: make tidy"; exit 1; }; done

check-standalone: ## Each service builds alone, without the workspace
	@for s in $(SERVICES); do (cd services/$$s && GOWORK=off go build ./...); done

openapi: $(BIN)/validate ## Validate the four OpenAPI documents, examples included
	@for s in $(SERVICES); do echo "openapi $$s"; $(BIN)/validate -- services/$$s/api/openapi.yaml; done

$(BIN)/golangci-lint $(BIN)/validate: tools/go.mod
	@mkdir -p $(BIN)
	@echo "building $(@F) (once)"
	@cd tools && GOWORK=off go build -o $(CURDIR)/$(BIN)/ $$(grep -oE '[a-z0-9./-]+/cmd/$(@F)$$' go.mod)

clean: ## Remove what make made; the data of `make dev` stays
	@rm -rf $(BIN) .cover
