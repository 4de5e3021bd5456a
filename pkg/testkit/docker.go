package testkit

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

const (
	postgresImage = "postgres:17-alpine"
	redisImage    = "redis:7-alpine"
)

// dockerAnswers says whether a Docker engine takes connections; one that hangs must not hold up
// the tests.
func dockerAnswers(ctx context.Context) bool {
	network, address := "unix", "/var/run/docker.sock"
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		u, err := url.Parse(host)
		if err != nil {
			return false
		}
		network, address = u.Scheme, u.Host
		if network == "unix" {
			address = strings.TrimPrefix(host, "unix://")
		}
	}
	dialer := net.Dialer{Timeout: 500 * time.Millisecond}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

func postgresContainer(ctx context.Context) (string, error) {
	password := rolePassword("")
	endpoint, err := runContainer(ctx, "5432/tcp", testcontainers.ContainerRequest{
		Image:        postgresImage,
		ExposedPorts: []string{"5432/tcp"},
		Env:          map[string]string{"POSTGRES_PASSWORD": password},
		Cmd:          []string{"postgres", "-c", "fsync=off", "-c", "max_connections=400"},
		// The image starts the server once to set it up, and then for good.
		WaitingFor: wait.ForLog("database system is ready to accept connections").WithOccurrence(2),
	})
	if err != nil {
		return "", err
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", password),
		Host: endpoint, Path: "/postgres", RawQuery: "sslmode=disable",
	}
	return u.String(), nil
}

func redisContainer(ctx context.Context) (string, error) {
	endpoint, err := runContainer(ctx, "6379/tcp", testcontainers.ContainerRequest{
		Image:        redisImage,
		ExposedPorts: []string{"6379/tcp"},
		WaitingFor:   wait.ForListeningPort("6379/tcp"),
	})
	if err != nil {
		return "", err
	}
	return "redis://" + endpoint + "/0", nil
}

// runContainer answers host:port of the exposed port. The reaper of testcontainers removes the
// container when this process has ended.
func runContainer(ctx context.Context, port string, request testcontainers.ContainerRequest) (string, error) {
	c, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{
		ContainerRequest: request, Started: true,
	})
	if err != nil {
		return "", fmt.Errorf("run %s: %w", request.Image, err)
	}
	endpoint, err := c.PortEndpoint(ctx, port, "")
	if err != nil {
		return "", fmt.Errorf("port of %s: %w", request.Image, err)
	}
	return endpoint, nil
}
