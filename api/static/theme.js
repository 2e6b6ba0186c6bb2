// Runs before the first paint, so that a chosen theme does not flash: hence no module.
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "auto";
