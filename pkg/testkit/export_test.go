package testkit

// What the tests of this package hold against their rules.
var (
	Unavailable        = unavailable
	DockerAnswers      = dockerAnswers
	ContainerOrProgram = containerOrProgram
)
