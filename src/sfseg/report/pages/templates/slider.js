document.documentElement.classList.add("script");
document.addEventListener("input", (event) => {
  const scene = event.target.closest(".scene");
  if (scene) scene.style.setProperty("--cut", event.target.value + "%");
});
