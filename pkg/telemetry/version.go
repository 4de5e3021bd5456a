package telemetry

import "runtime/debug"

// version is what the linker writes: -ldflags "-X github.com/sentryagent/agentidp/pkg/telemetry.version=v1.2.3".
// The linker can write to a package's variable only.
var version string

// Version names the release that this program is of; where it was not built as one, the revision that Go knows, or "unknown".
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				return setting.Value
			}
		}
	}
	return "unknown"
}
